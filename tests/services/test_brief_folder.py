import os
from pathlib import Path

import pytest

from services.brief.folder import (
    MAX_FILE_BYTES,
    Document,
    Unread,
    default_docs,
    list_documents,
    open_document,
)


def write(root: Path, path: str, text: str = "Words.\n") -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


def reason(root: Path, path: str) -> str:
    found = open_document(str(root), path)
    assert isinstance(found, Unread)
    return found.reason


def test_documents_are_listed_in_the_order_of_their_names(tmp_path: Path) -> None:
    for path in ("b.md", "a/z.txt", "a.rst", "B.HTML", "a/b/c.py", "x.json", "no_suffix"):
        write(tmp_path, path)
    assert list_documents(str(tmp_path)).paths == (
        "B.HTML", "a/b/c.py", "a/z.txt", "a.rst", "b.md",
    )  # fmt: skip


def test_hidden_installed_and_test_files_are_no_documents(tmp_path: Path) -> None:
    for path in (".git/a.md", "node_modules/a.md", "x/site-packages/a.py", "tests/test_a.py"):
        write(tmp_path, path)
    write(tmp_path, "tests/README.md")
    assert list_documents(str(tmp_path)).paths == ("tests/README.md",)


def test_a_link_to_a_folder_is_not_entered(tmp_path: Path) -> None:
    write(tmp_path, "a/b.md")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert list_documents(str(tmp_path)).paths == ("a/b.md",)


def test_names_that_no_message_can_carry_are_counted(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.md")).write_text("x", encoding="utf-8")
    write(tmp_path, "line\nfeed.md")
    write(tmp_path, "good.md")
    listing = list_documents(str(tmp_path))
    assert (listing.paths, listing.skipped) == (("good.md",), 2)


def test_a_missing_folder_cannot_be_listed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list_documents(str(tmp_path / "gone"))


def test_a_named_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    assert reason(tmp_path, "pipe.txt") == "not a regular file"


def test_what_is_not_readable_text_is_left_out_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "binary.txt").write_bytes(b"a\0b")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "large.txt").write_bytes(b"a" * (MAX_FILE_BYTES + 1))
    (tmp_path / "dangling.txt").symlink_to("nowhere")
    (tmp_path / "self.txt").symlink_to("self.txt")
    assert reason(tmp_path, "binary.txt") == "binary"
    assert reason(tmp_path, "latin.txt") == "not UTF-8"
    assert reason(tmp_path, "large.txt") == "larger than 2 MiB"
    assert reason(tmp_path, "dangling.txt") == "No such file or directory"
    assert reason(tmp_path, "self.txt") == "Too many levels of symbolic links"


def test_lines_are_counted_as_editors_count_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo\rthree\x0c\u2028\nfour".encode())
    found = open_document(str(tmp_path), "a.txt")
    assert isinstance(found, Document)
    assert found.lines == ("one", "two", "three\x0c\u2028", "four")


def test_the_default_folder_holds_the_standard_library() -> None:
    assert Path(default_docs(), "asyncio", "tasks.py").is_file()
