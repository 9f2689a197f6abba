"""Native receive threads, and the sockets that they own."""

cimport cython

import atexit
import os
import sys
import weakref

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from cpython.weakref cimport PyWeakref_NewRef
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libcpp.memory cimport make_shared, shared_ptr
from posix.unistd cimport getpid

from ._clock cimport monotonic_ns
from ._line cimport (
    ORDER_ABORT,
    ORDER_BEAT,
    ORDER_CLOSE,
    ORDER_FLUSH,
    ORDER_LOOK,
    REPORT_DRAINED,
    REPORT_END,
    REPORT_GONE,
    REPORT_STEP,
    Entry,
    Line,
    Pump as NativePump,
    Reports,
    SentLog,
    Written,
)
from ._pumped cimport PumpedDecoder
from ._section cimport Section

cdef extern from *:
    """
    #include <fcntl.h>
    #include <new>
    static inline int fastws_adopt_fd(int fd) {
        int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    #ifdef SO_NOSIGPIPE
        int one = 1;
        if (copy >= 0) setsockopt(copy, SOL_SOCKET, SO_NOSIGPIPE, &one, sizeof one);
    #endif
        return copy < 0 ? -errno : copy;
    }
    static inline bool fastws_wait_drained(fastws::Line *line, int64_t deadline_ns) {
        return line->outlet.wait_drained(fastws::monotonic_time(deadline_ns));
    }
    static inline int fastws_error_of(fastws::Line *line) { return line->error.load(); }
    static inline void fastws_set_error(fastws::Line *line, int error) { line->error.store(error); }
    static inline void fastws_set_paused(fastws::Line *line, bool paused) { line->paused.store(paused); }
    static inline void fastws_orphan(fastws::Line *line) { line->orphan.store(true); }
    static inline void fastws_forget(fastws::Line *line) { if (line->reports) line->reports->forget(line); }
    static inline void fastws_release(fastws::Line *line) { line->reports.reset(); }
    static inline void fastws_close_fd(int fd) { ::close(fd); }
    static fastws::Libssl fastws_libssl;
    static inline bool fastws_load_libssl(const char *path) {
        static const bool loaded = fastws_libssl.load(path);
        return loaded;
    }
    static inline unsigned long fastws_libssl_version() { return fastws_libssl.OpenSSL_version_num(); }
    static inline fastws::Line *fastws_new_line(
        int fd, void *decoder, void *handle, void *reference, std::shared_ptr<fastws::Reports> reports, void *ssl
    ) {
        std::unique_ptr<fastws::Tls> tls;
        if (ssl != nullptr) {
            tls.reset(new (std::nothrow) fastws::Tls(&fastws_libssl, ssl));
            if (!tls) return nullptr;
        }
        return new (std::nothrow) fastws::Line(fd, decoder, handle, reference, reports, std::move(tls));
    }
    /* The pointer in a field behind the head of a Python object. */
    static inline void *fastws_field(PyObject *object, Py_ssize_t number) {
        Py_ssize_t end = (Py_ssize_t)sizeof(PyObject) + (number + 1) * (Py_ssize_t)sizeof(void *);
        if (Py_TYPE(object)->tp_basicsize < end) return nullptr;
        return ((void **)((char *)object + sizeof(PyObject)))[number];
    }
    static inline bool fastws_is_ssl_of(void *ssl, PyObject *object, void *context, int fd) {
        const fastws::Libssl &lib = fastws_libssl;
        return lib.SSL_get_ex_data(ssl, 0) == (void *)object && lib.SSL_get_SSL_CTX(ssl) == context &&
               lib.SSL_get_fd(ssl) == fd;
    }
    static inline void fastws_prepare_ssl(void *ssl) { fastws::Tls::set_mode(&fastws_libssl, ssl); }
    static inline bool fastws_is_encrypted(fastws::Line *line) { return line->outlet.tls() != nullptr; }
    static inline const char *fastws_tls_failure(fastws::Line *line) {
        fastws::Tls *tls = line->outlet.tls();
        if (tls == nullptr || !tls->failure()) return nullptr;
        return tls->lib()->ERR_reason_error_string(tls->failure());
    }
    static inline size_t fastws_take(
        fastws::Reports *reports, fastws::Reports::Entry *entries, size_t most, int64_t *rung_ns
    ) {
        return reports->take(entries, most, rung_ns, [](void *reference) { Py_INCREF((PyObject *)reference); });
    }
    static inline void fastws_report_again(fastws::Line *line, uint32_t report) {
        if (line->reports) line->reports->add(line, report);
    }
    """
    int fastws_adopt_fd(int fd) noexcept
    bint fastws_wait_drained(Line* line, int64_t deadline_ns) noexcept nogil
    int fastws_error_of(Line* line) noexcept
    void fastws_set_error(Line* line, int error) noexcept
    void fastws_set_paused(Line* line, bint paused) noexcept
    void fastws_close_fd(int fd) noexcept
    void fastws_orphan(Line* line) noexcept
    void fastws_forget(Line* line) noexcept
    void fastws_release(Line* line) noexcept
    Line* fastws_new_line(
        int fd, void* decoder, void* handle, void* reference, shared_ptr[Reports] reports, void* ssl
    ) noexcept
    bint fastws_load_libssl(const char* path) noexcept
    unsigned long fastws_libssl_version() noexcept
    void* fastws_field(object obj, Py_ssize_t number) noexcept
    bint fastws_is_ssl_of(void* ssl, object obj, void* context, int fd) noexcept
    void fastws_prepare_ssl(void* ssl) noexcept
    bint fastws_is_encrypted(Line* line) noexcept
    const char* fastws_tls_failure(Line* line) noexcept
    size_t fastws_take(Reports* reports, Entry* entries, size_t most, int64_t* rung_ns) noexcept
    void fastws_report_again(Line* line, uint32_t report) noexcept

cdef extern from "Python.h":
    int Py_AddPendingCall(int (*function)(void*) noexcept, void* argument) noexcept nogil

cdef extern from "<atomic>" namespace "std" nogil:
    cdef cppclass atomic_flag:
        bint test_and_set() noexcept
        void clear() noexcept

cdef extern from "latch.hpp" namespace "fastws" nogil:
    int Process_id "fastws::Process::id"() noexcept


cdef enum:
    SLEEP_MAX_NS = 100_000_000  # between two looks for signals
    TAKE_MAX = 64               # reports that are taken in one go
    BEATS_MIN_NS = 1_000_000    # between two heartbeats: the poller counts in milliseconds


# Thirty years: what is added to a clock must not overflow.
cdef double BEATS_MAX_S = 1e9


cdef int read_step(Line* line) noexcept nogil:
    return (<PumpedDecoder> line.decoder).read(line)


cdef int look_step(Line* line) noexcept nogil:
    return (<PumpedDecoder> line.decoder).look(line)


cdef int beat_step(Line* line) noexcept nogil:
    return (<PumpedDecoder> line.decoder).beat(line)


cdef int over_step(Line* line) noexcept nogil:
    (<PumpedDecoder> line.decoder).finish()
    return 0


cdef atomic_flag purge_is_due
cdef bint at_exit = False       # no pump runs any more, and what all_pumps() needs is about to be taken down


cdef void orphan_gone() noexcept nogil:
    """Nobody is told of a line that is gone: let the main thread purge when it runs Python the next time."""
    if not purge_is_due.test_and_set() and Py_AddPendingCall(purge_pumps, NULL) < 0:
        # Too many wait: the next connection purges.
        purge_is_due.clear()


cdef int purge_pumps(void* nothing) noexcept:
    """With the GIL, as a pending call."""
    purge_is_due.clear()
    if not at_exit:
        for pump in all_pumps():
            (<Pump?> pump).purge()
    return 0


@cython.final
cdef class Hub:
    """What pumps tell one event loop, or another waiter: one readable descriptor for any number of sockets.

    Attributes:
        STEP: The decoder has something to be looked at.
        END: The stream has ended.
        DRAINED: Writing may go on.
        GONE: The socket is closed; this is its last report.
        rung_ns: When what was taken last had made it readable (``time.monotonic_ns()``); 0 if nothing had.
    """

    STEP, END, DRAINED, GONE = REPORT_STEP, REPORT_END, REPORT_DRAINED, REPORT_GONE

    cdef shared_ptr[Reports] reports
    cdef readonly int64_t rung_ns

    def __init__(self):
        self.reports = make_shared[Reports]()
        error = self.reports.get().open()
        if error:
            raise OSError(error, os.strerror(error))

    def fileno(self):
        """Readable when there is something to `take`."""
        return self.reports.get().fd()

    def take(self):
        """What has happened since the last call: pairs of `PumpSocket` and a sum of STEP, END, DRAINED and GONE."""
        cdef Entry[TAKE_MAX] entries
        cdef size_t i = 0, count = TAKE_MAX
        cdef list taken = []
        cdef object pump_socket
        cdef PumpSocket kept
        self.rung_ns = 0
        while count == TAKE_MAX:
            # What comes are new references to weak ones: who has let go of a socket doesn't want to hear of it.
            count = fastws_take(self.reports.get(), entries, TAKE_MAX, &self.rung_ns)
            i = 0
            try:
                while i < count:
                    pump_socket = (<object> entries[i].reference)()
                    if pump_socket is not None:
                        taken.append((pump_socket, entries[i].report))
                    Py_DECREF(<object> entries[i].reference)
                    i += 1
            except BaseException:
                # None of it is lost: the last report of a socket would never come.
                for kept, report in taken:
                    fastws_report_again(kept.line, report)
                while i < count:
                    pump_socket = (<object> entries[i].reference)()
                    if pump_socket is not None:
                        fastws_report_again((<PumpSocket> pump_socket).line, entries[i].report)
                    Py_DECREF(<object> entries[i].reference)
                    i += 1
                raise
        return taken


@cython.final
cdef class PumpSocket:
    """A socket that a pump owns."""

    cdef Line* line
    cdef readonly Pump pump
    cdef readonly PumpedDecoder decoder
    cdef readonly Encryption encryption
    cdef object __weakref__
    cdef PyObject* reference        # a weak one to itself; not for the collector, as it outlives the line's reports
    cdef int descriptor
    cdef int process

    def __init__(self):
        raise TypeError("a PumpSocket comes from Pump.adopt()")

    def __dealloc__(self):
        if self.line != NULL:
            self.close_line()
        Py_XDECREF(self.reference)

    cdef void close_line(self) noexcept:
        # The collector may have cleared what is an object.
        if self.process != getpid():
            fastws_close_fd(self.descriptor)
            return
        fastws_forget(self.line)
        del self.line

    cdef int check(self) except -1:
        if self.process != Process_id():
            raise RuntimeError("the connection belongs to the parent process: it doesn't survive a fork")
        return 0

    def write(self, data, bint last=False, /):
        """Send whole frames: at once what the socket takes, the rest when it does.

        Args:
            data: The frames.
            last: Whether they end with the last fragment of a message, for which replies were held.

        Returns:
            Whether what waits has crossed the high-water mark: then pause writing until `Hub.DRAINED`. What can't be
            written any more is the end of the socket: `Hub.GONE`.
        """
        cdef Py_buffer buffer
        cdef Written written
        self.check()
        PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
        # With the GIL: the system call takes microseconds, having it back from a busy thread milliseconds.
        written = self.line.outlet.write(<const char*> buffer.buf, buffer.len, last)
        PyBuffer_Release(&buffer)
        if written.error:
            fastws_set_error(self.line, written.error)
            self.order(ORDER_ABORT)
        elif written.first or written.beat:
            self.order((ORDER_FLUSH if written.first else 0) | (ORDER_BEAT if written.beat else 0))
        if written.logged:
            self.pump.native.tell(self.line, REPORT_STEP)
        return written.full

    @property
    def is_full(self):
        """Whether what waits has crossed the high-water mark, and not yet the low one."""
        self.check()
        return self.line.outlet.is_full()

    def wait_drained(self, timeout_s=None, /):
        """Wait without the GIL until it isn't full, or nothing can be written any more.

        Args:
            timeout_s: Seconds; None is no limit.

        Returns:
            Whether that is so; False after the timeout.
        """
        cdef int64_t deadline_ns = 0, until_ns
        cdef bint drained
        self.check()
        if timeout_s is not None:
            deadline_ns = monotonic_ns() + <int64_t> (timeout_s * 1e9)
        while True:
            until_ns = monotonic_ns() + SLEEP_MAX_NS
            if timeout_s is not None and deadline_ns < until_ns:
                until_ns = deadline_ns
            with nogil:
                drained = fastws_wait_drained(self.line, until_ns)
            if drained:
                return True
            if timeout_s is not None and monotonic_ns() >= deadline_ns:
                return False
            PyErr_CheckSignals()

    cdef void order(self, uint32_t order) noexcept:
        self.pump.native.order(self.line, order)

    def begin_beats(self, bytes text not None, double every_s, bint expects, /):
        """Send heartbeats from now on, the first after ``every_s`` seconds.

        Args:
            text: What they say.
            every_s: Seconds between two; one that was missed, as the process didn't run, isn't made up for.
            expects: Whether only what ``decoder.heard`` counts is an answer; else any message is.

        Raises:
            RuntimeError: If they have begun already.
        """
        self.check()
        self.decoder.beat_with(text, expects)
        self.pump.native.begin_beats(self.line, max(BEATS_MIN_NS, <int64_t> (min(every_s, BEATS_MAX_S) * 1e9)))

    def stop_answers(self):
        """No pong, reply or heartbeat may follow: a close frame is sent next (RFC 6455 5.5.1)."""
        self.check()
        self.line.outlet.stop_answers()

    def hold_replies(self):
        """No message of the pump may come between (RFC 6455 5.4): fragments are sent, until ``write(last, True)``."""
        self.check()
        self.line.outlet.hold_replies()

    def end(self):
        """Nothing more is written: shut the sending side down when all is sent."""
        self.check()
        self.line.outlet.end()
        self.order(ORDER_FLUSH)

    def set_limits(self, size_t high, size_t low, /):
        """Bytes that wait: more than high pause writing, low or fewer let it go on."""
        self.check()
        self.line.outlet.set_limits(high, low)

    def pause(self, bint paused, /):
        """Whether reading shall rest."""
        self.check()
        fastws_set_paused(self.line, paused)
        self.order(ORDER_LOOK)

    def close(self):
        """Close it when all is sent; nothing is read any more. With TLS, when the peer has closed it as well."""
        self.check()
        if fastws_is_encrypted(self.line):
            self.line.outlet.end()
        self.order(ORDER_CLOSE)

    def abort(self):
        """Close it now. In a forked child: its own descriptor only."""
        if self.process == Process_id():
            self.order(ORDER_ABORT)

    def abandon(self):
        """Close it now; nobody takes its report any more, as its loop is closed."""
        if self.process == Process_id():
            fastws_orphan(self.line)
            self.order(ORDER_ABORT)
            # It may have been gone before.
            orphan_gone()

    def release(self):
        """After `Hub.GONE` and `Pump.purge`: let go of the hub, which has a descriptor."""
        cdef Section section
        section.enter(self)
        fastws_release(self.line)

    @property
    def waiting_bytes(self):
        """Bytes that the socket hasn't taken."""
        self.check()
        return self.line.outlet.size()

    @property
    def sent(self):
        """What the pump has sent of its own: (messages, bytes, withheld).

        The bytes are those of pongs and headers, too. Withheld are replies and heartbeats that it hasn't sent, as more
        than 1 MiB waited for a peer that doesn't read.
        """
        cdef uint64_t messages, nbytes, withheld
        self.check()
        self.line.outlet.count_own(&messages, &nbytes, &withheld)
        return messages, nbytes, withheld

    def take_log(self):
        """Which replies and heartbeats were sent since the last call, if the decoder logs; `Hub.STEP` tells of them.

        Returns:
            Their indices, that of heartbeats behind those of the replies, and how many more there were.
        """
        cdef SentLog log
        cdef size_t i
        self.check()
        self.line.outlet.take_log(log)
        return [log.number(i) for i in range(log.size())], log.more()

    @property
    def error(self):
        """errno of what ended it, or 0; EPROTO if it was TLS, see `tls_failure`."""
        return fastws_error_of(self.line)

    @property
    def tls_failure(self):
        """What libssl says has made TLS fail; None if it hasn't."""
        cdef const char* text = fastws_tls_failure(self.line)
        return None if text == NULL else text.decode("ascii", "replace")


_libssl = None                      # why it can't be reached, "" if it can; None: not tried yet


def libssl_missing():
    """Why Python's libssl can't be used without Python; None if it can."""
    global _libssl
    if _libssl is None:
        try:
            import _ssl
        except ImportError:
            _libssl = "Python has no module ssl"
        else:
            path = getattr(_ssl, "__file__", None)
            if path is None or not fastws_load_libssl(os.fsencode(path)):
                _libssl = "the libssl of this Python can't be reached"
            elif fastws_libssl_version() != _ssl.OPENSSL_VERSION_NUMBER:
                _libssl = "the libssl that was found isn't that of this Python"
            else:
                _libssl = ""
    return _libssl or None


@cython.final
cdef class Encryption:
    """The TLS session of an `ssl.SSLSocket`, for use without Python.

    Args:
        sock: Not closed; nobody else may read or write it once a pump has adopted it.

    Raises:
        NotImplementedError: If it can't be used so.
    """

    cdef readonly object sock
    cdef void* ssl

    def __init__(self, sock):
        if self.ssl != NULL:
            raise RuntimeError("the session is in use")
        if (reason := libssl_missing()) is not None:
            raise NotImplementedError(reason)
        self.sock = sock
        self.check()
        fastws_prepare_ssl(self.ssl)

    cdef int check(self) except -1:
        """Find the SSL, and make sure that it is it: the layout of Python's object is no promise."""
        import _ssl
        sslobj = getattr(self.sock, "_sslobj", None)
        if type(sslobj) is not _ssl._SSLSocket or not isinstance(sslobj.context, _ssl._SSLContext):
            raise NotImplementedError("its TLS isn't of the module ssl")
        # The first field is a weak reference to the socket: only then is the second looked behind.
        first = <size_t> fastws_field(sslobj, 0)
        self.ssl = fastws_field(sslobj, 1)
        if (
            first not in [id(reference) for reference in weakref.getweakrefs(self.sock)]
            or self.ssl == NULL
            or not fastws_is_ssl_of(self.ssl, sslobj, fastws_field(sslobj.context, 0), self.sock.fileno())
        ):
            self.ssl = NULL
            raise NotImplementedError("the session of libssl isn't where it is expected in this Python")
        return 0

    def close(self):
        """Close the socket, without a word to the peer. What was negotiated can still be asked for."""
        fd = self.sock.detach()
        if fd >= 0:
            os.close(fd)


@cython.final
cdef class Pump:
    """A native thread that reads many connections without the GIL.

    It starts with its first connection and ends with its last one. By default, all connections of a process share one.

    Args:
        name: Of the thread, for tools; the system may cut it (Linux: 15 bytes).
        cpu: Number of the CPU that it shall stay on; None leaves that to the system. Linux only.

    Raises:
        ValueError: If there is no such CPU for this process.
        NotImplementedError: If the system can't pin threads.
    """

    cdef NativePump* native
    cdef readonly str name
    cdef readonly object cpu
    cdef object __weakref__
    cdef int process
    cdef list closed                # sockets that are gone, on their way out

    def __init__(self, *, name="fastws-pump", cpu=None):
        if self.native != NULL:
            raise RuntimeError("the pump is in use")
        if cpu is not None:
            if not hasattr(os, "sched_getaffinity"):
                raise NotImplementedError(f"cpu is {cpu}, but threads can't be pinned on {sys.platform}")
            if cpu not in os.sched_getaffinity(0):
                raise ValueError(f"cpu is {cpu}, must be one of {sorted(os.sched_getaffinity(0))}")
        self.name = name
        self.cpu = cpu
        self.closed = []
        self.make()
        _pumps.add(self)

    cdef int make(self) except -1:
        self.process = getpid()
        self.native = new NativePump(
            self.name.encode(), -1 if self.cpu is None else self.cpu, read_step, look_step, beat_step, over_step,
            orphan_gone,
        )
        return 0

    def __dealloc__(self):
        # No socket is left: each keeps its pump.
        if self.native != NULL and self.process == getpid():
            with nogil:
                del self.native

    def __repr__(self):
        return f"<fastws.Pump {self.name!r} with {self.connections} connections>"

    @property
    def connections(self):
        """Connections that it reads."""
        return self.native.lines() if self.process == getpid() else 0

    @property
    def running(self):
        """Whether its thread runs."""
        return self.process == getpid() and self.native.running()

    def adopt(self, int fd, PumpedDecoder decoder not None, Hub hub=None, Encryption encryption=None, /):
        """Read a copy of a socket's descriptor into ``decoder``, after ``pause(False)``. Nobody else may read it.

        The socket of an ``encryption`` is closed when the pump is done with it.

        Raises:
            OSError: If the descriptor can't be copied, or no thread be started.
            RuntimeError: If the interpreter is shutting down.
        """
        cdef PumpSocket made = PumpSocket.__new__(PumpSocket)
        cdef shared_ptr[Reports] reports
        cdef int copy, error
        cdef object reference = PyWeakref_NewRef(made, None)
        cdef Section section
        if encryption is not None:
            encryption.check()
        section.enter(self)
        if self.process != getpid():
            # The parent's thread isn't here, and its locks may be held for ever: leave it alone.
            self.make()
        section.leave()
        self.purge()
        copy = fastws_adopt_fd(fd)
        if copy < 0:
            raise OSError(-copy, os.strerror(-copy))
        if hub is not None:
            reports = hub.reports
        made.pump = self
        made.decoder = decoder
        made.descriptor = copy
        made.process = getpid()
        Py_INCREF(reference)
        made.reference = <PyObject*> reference
        made.line = fastws_new_line(
            copy, <void*> decoder, <void*> made, <void*> reference, reports,
            NULL if encryption is None else encryption.ssl,
        )
        if made.line == NULL:
            fastws_close_fd(copy)
            raise MemoryError("no memory for a connection")
        decoder.attach(self.native, made.line)
        fastws_set_paused(made.line, True)
        made.encryption = encryption
        # Until the pump is done with it.
        Py_INCREF(made)
        error = self.native.adopt(made.line)
        if error:
            Py_DECREF(made)
            decoder.detach()
            raise OSError(error, f"no receive thread: {os.strerror(error)}")
        return made

    def purge(self):
        """Let go of sockets that are closed."""
        cdef Line* line
        cdef PumpSocket gone
        cdef Section section
        section.enter(self)
        if self.process != getpid():
            return
        while (line := self.native.take_gone()) != NULL:
            gone = <PumpSocket> line.handle
            try:
                self.closed.append(gone)
            except MemoryError:
                self.native.return_gone(line)
                return
            Py_DECREF(gone)
        while self.closed:
            gone = self.closed.pop()
            try:
                gone.decoder.detach()
            except RuntimeError:
                # A finalizer has interrupted this very thread inside of that decoder: another time.
                self.closed.append(gone)
                return
            if gone.encryption is not None:
                gone.encryption.close()

    def stop(self):
        """End the thread, whatever is open; for the end of the process."""
        if self.process == getpid():
            with nogil:
                self.native.stop()


_pumps = weakref.WeakSet()


cdef list all_pumps():
    while True:
        try:
            return list(_pumps)
        except RuntimeError:
            # Another thread has made one meanwhile.
            continue


def _stop_all():
    global at_exit
    at_exit = True
    for pump in all_pumps():
        pump.stop()


# Before the interpreter is taken down, after threads that may still receive.
atexit.register(_stop_all)
