"""Key pairs: made at first use, for their owner's eyes, and never half right."""

import json
import stat
from pathlib import Path

import pytest

from glinthawk.core.errors import AddressError
from glinthawk.wire import keys
from glinthawk.wire.keys import Identity, check_key, default_identity_path


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_load_makes_a_private_file_in_a_private_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "glinthawk" / "identity.json"
    Identity.load(path)
    assert _mode(path) == 0o600
    assert _mode(path.parent) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["identity.json"]


def test_two_loads_give_the_same_pair(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    assert Identity.load(path) == Identity.load(path)
    assert Identity.load(path) != Identity.load(tmp_path / "other.json")


def test_the_pair_of_whoever_was_first_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process writes its pair between our look at the path and our own writing."""
    path, theirs, ours = tmp_path / "identity.json", Identity.create(), Identity.create()

    def late() -> Identity:
        keys._write_private(path, theirs)
        return ours

    monkeypatch.setattr(Identity, "create", late)
    assert Identity.load(path) == theirs
    assert [entry.name for entry in tmp_path.iterdir()] == ["identity.json"]


def test_no_path_means_the_users_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    identity = Identity.load()
    assert default_identity_path() == tmp_path / ".config" / "glinthawk" / "identity.json"
    assert Identity.load(default_identity_path()) == identity


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"public": 5, "secret": 6}',
        b'{"public": "%b"}' % (b"a" * 64),
        b'{"public": "%b", "secret": "%b"}' % (b"a" * 64, b"b" * 63),
        b"\xff\xfe",
    ],
)
def test_a_corrupted_file_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "identity.json"
    path.write_bytes(content)
    with pytest.raises(AddressError, match=r"identity\.json"):
        Identity.load(path)
    assert path.read_bytes() == content


def test_a_corrupted_secret_is_never_shown(tmp_path: Path) -> None:
    path, secret = tmp_path / "identity.json", "b" * 63
    path.write_text(json.dumps({"public": "a" * 64, "secret": secret}))
    with pytest.raises(AddressError) as caught:
        Identity.load(path)
    assert secret not in str(caught.value)


def test_keys_are_32_bytes_in_hexadecimal() -> None:
    identity = Identity.create()
    assert check_key(identity.public) == identity.public
    assert len(bytes.fromhex(identity.secret)) == 32
    assert [len(key) for key in identity.as_z85()] == [40, 40]


def test_every_created_pair_is_new() -> None:
    pairs = [Identity.create() for _ in range(5)]
    assert len({key for pair in pairs for key in (pair.public, pair.secret)}) == 10
