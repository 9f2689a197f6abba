"""Start wstest from a folder of packages; runs under Python 2.7 (see run.py).

The folder is made a site directory, as namespace packages (zope) need their .pth files read. wstest's server would
listen on all addresses; here it gets the loopback one only.
"""

import functools
import site
import sys

site.addsitedir(sys.argv.pop(1))

from autobahntestsuite import choosereactor, fuzzing, wstest  # noqa: F401  (the reactor comes first)

fuzzing.listenWS = functools.partial(fuzzing.listenWS, interface="127.0.0.1")
wstest.run()
