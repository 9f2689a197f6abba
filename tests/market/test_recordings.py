"""The reader of recordings: what is in a file comes out of it, and what is wrong with it is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastws.market import Entry, RecordingError, read_recording, recordings

ANY = settings(deadline=None)

MESSAGES = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))
URLS = st.from_regex(r"wss?://[a-z.]{1,20}(:[0-9]{2,4})?/[!-~]{0,20}", fullmatch=True)
TIMES = st.integers(0, 9_999_999_999_999_999_999)


def written(entry: Entry) -> str:
    time = f"{entry.time_ns // 10**9}.{entry.time_ns % 10**9:09}"
    match entry.kind:
        case "received":
            return f"{time}: {entry.message}\n"
        case "sent":
            return f"{entry.url} <- {time}: {entry.message}\n"
        case _:
            return f"{entry.url} <-> {time}\n"


ENTRIES = st.lists(
    st.one_of(
        st.builds(Entry, st.just("received"), TIMES, MESSAGES, st.just(""), st.just(0)),
        st.builds(Entry, st.just("sent"), TIMES, MESSAGES, URLS, st.just(0)),
        st.builds(Entry, st.just("connected"), TIMES, st.just(""), URLS, st.just(0)),
    ),
    max_size=20,
)


def read(path: Path, content: bytes) -> list[Entry]:
    path.write_bytes(content)
    return list(read_recording(path))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recordings") / "feed.txt"


@ANY
@given(ENTRIES)
def test_what_was_written_is_read(path: Path, entries: list[Entry]) -> None:
    found = read(path, "".join(map(written, entries)).encode())
    assert [(e.kind, e.time_ns, e.message, e.url) for e in found] == [
        (e.kind, e.time_ns, e.message, e.url) for e in entries
    ]
    assert [e.line for e in found] == list(range(1, len(entries) + 1))


@ANY
@given(st.binary(max_size=200))
def test_nothing_but_its_own_error_is_raised(path: Path, content: bytes) -> None:
    error = None
    try:
        entries = read(path, content)
    except RecordingError as exc:
        error = exc
    if error is None:
        assert [entry.line for entry in entries] == sorted({entry.line for entry in entries})
    else:
        assert error.line in range(1, content.count(b"\n") + 2)
        assert str(error).startswith(f"{path}:{error.line}: ")


@pytest.mark.parametrize(
    ("line", "time_ns"),
    [
        ("0: x", 0),
        ("1633998512: x", 1_633_998_512_000_000_000),
        ("1633998512.0633569: x", 1_633_998_512_063_356_900),
        ("1633998512.1234567899: x", 1_633_998_512_123_456_789),
    ],
)
def test_times_are_exact(path: Path, line: str, time_ns: int) -> None:
    assert read(path, line.encode())[0].time_ns == time_ns


def test_messages_stay_as_they_came(path: Path) -> None:
    messages = ['{"a": "1: 2 <- 3"}', "", " spaces ", "wss://x <-> 3", "\u20ac\u2028\x85", "ends with\r"]
    content = "".join(f"5.5: {message}\n" for message in messages)
    assert [entry.message for entry in read(path, content.encode())] == messages


def test_empty_lines_are_skipped_and_counted(path: Path) -> None:
    assert [entry.line for entry in read(path, b"\n1: a\n\r\n  \n2: b\n\n")] == [2, 5]


def test_the_last_line_needs_no_end(path: Path) -> None:
    assert [entry.message for entry in read(path, b"1: a\n2: b")] == ["a", "b"]


@pytest.mark.parametrize(
    "line",
    [
        b"x",
        b"1.5",
        b"1.5:",
        b"1.5:x",
        b"-1: x",
        b"1e9: x",
        b".5: x",
        b"nan: x",
        b" 1: x",
        b"123456789012: x",
        b"url <- 1 x",
        b"url <- : x",
        b"url <-> 1: x",
        b"two words <- 1: x",
        b"url -> 1: x",
    ],
)
def test_a_malformed_line_is_named(path: Path, line: bytes) -> None:
    with pytest.raises(RecordingError, match=r"neither .* nor ") as caught:
        read(path, b"1: fine\n" + line + b"\n2: fine\n")
    assert caught.value.line == 2
    assert str(caught.value).startswith(f"{path}:2: ")
    assert repr(line.decode()) in str(caught.value)


def test_an_error_shows_the_beginning_of_a_long_line(path: Path) -> None:
    with pytest.raises(RecordingError) as caught:
        read(path, b"?" * 5_000_000)
    assert len(str(caught.value)) < len(str(path)) + 200


@pytest.mark.parametrize("line", [b"1: ab\xff", b"url <- 1: \xff"])
def test_a_message_that_is_not_utf_8_is_named(path: Path, line: bytes) -> None:
    with pytest.raises(
        RecordingError, match=f"not UTF-8: invalid start byte at byte {line.index(0xFF) + 1}$"
    ) as caught:
        read(path, line)
    assert caught.value.line == 1


def test_huge_lines_are_read(path: Path) -> None:
    (entry,) = read(path, b"1: " + b"x" * (8 * 2**20))
    assert len(entry.message) == 8 * 2**20


def test_a_line_beyond_all_measure_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "MAX_LINE_BYTES", 10)
    assert len(read(path, b"1: 3456789\n1: 4567890")) == 2
    with pytest.raises(RecordingError, match="longer than 10 bytes") as caught:
        read(path, b"1: 3\n1: 45678901\n")
    assert caught.value.line == 2


def test_it_reads_no_further_than_asked(path: Path) -> None:
    path.write_bytes(b"1: a\n2: b\nbroken")
    entries = read_recording(path)
    assert next(entries).message == "a"
    assert next(entries).message == "b"
    with pytest.raises(RecordingError):
        next(entries)


def test_a_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        next(read_recording(tmp_path / "none.txt"))
