"""API keys and the door: whose key it is, how often it may be used, and what a bad key file says."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from dynhat_runtime.errors import RateLimitedError, SettingsError, UnauthorizedError
from dynhat_runtime.service.door import Door, TokenBucket, key_in
from dynhat_runtime.service.keys import ANYBODY, KeyRing

KITCHEN = "kitchen-0123456789abcdef"
NIGHT = "night-0123456789abcdef"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A key file: one key in the clear, one hashed, of the class batch and slow."""
    path = tmp_path / "keys.toml"
    path.write_text(
        f'[keys.kitchen]\nkey = "{KITCHEN}"\n'
        f'[keys.night]\nsha256 = "{hashlib.sha256(NIGHT.encode()).hexdigest()}"\n'
        'priority = "batch"\nrate_limit_per_minute = 2\n',
        encoding="utf-8",
    )
    return path


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now_s


def test_a_key_finds_its_caller(path: Path) -> None:
    """A key, in the clear or hashed in the file, leads to its name and what the file says of it; another to nobody."""
    ring = KeyRing.load(path)
    kitchen, night = ring.find(KITCHEN), ring.find(NIGHT)
    assert kitchen is not None
    assert night is not None
    assert (kitchen.name, kitchen.priority, kitchen.rate_limit_per_minute) == ("kitchen", "interactive", None)
    assert (night.name, night.priority, night.rate_limit_per_minute) == ("night", "batch", 2)
    for stranger in ("", "kitchen", KITCHEN[:-1], KITCHEN + "x", KITCHEN.upper(), "\ud83d", "ключ"):
        assert ring.find(stranger) is None


def test_no_key_is_kept(path: Path) -> None:
    """What is kept in memory of a key is its hash."""
    assert KITCHEN not in repr(KeyRing.load(path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["keys"]),
        ("[keys]", ["keys"]),
        ("[keys.a]", ["keys.a", "either key or sha256"]),
        ('[keys.a]\nkey = "short"', ["keys.a.key", "16"]),
        ('[keys.a]\nsha256 = "xyz"', ["keys.a.sha256"]),
        (f'[keys.a]\nkey = "{KITCHEN}"\nrole = "admin"', ["keys.a.role"]),
        (f'[keys."a\\nb"]\nkey = "{KITCHEN}"', ["keys"]),
        (f'[keys.a]\nkey = "{KITCHEN}"\nrate_limit_per_minute = 0', ["rate_limit_per_minute"]),
        (f'[keys.a\nkey = "{KITCHEN}"', ["not TOML", "[keys.NAME]"]),
    ],
)
def test_a_bad_file(path: Path, text: str, words: list[str]) -> None:
    """A key file at fault is named in one line with what is wrong in it, and no key of it is shown."""
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        KeyRing.load(path)
    message = str(caught.value)
    for word in (str(path), *words):
        assert word in message
    assert KITCHEN not in message
    assert "\n" not in message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A key file that is missing is an error: nobody is let in by mistake."""
    with pytest.raises(SettingsError, match=r"absent\.toml.*No such file"):
        KeyRing.load(tmp_path / "absent.toml")


# --- the door ---


def test_a_door_without_keys() -> None:
    """Where no keys are asked for anybody is let in, with any key or none."""
    door = Door()
    assert door.admit(None) == door.admit("whatever") == ANYBODY
    assert not door.asks_for_keys


def test_a_door_with_keys(path: Path) -> None:
    """With keys only a known one opens, and the refusal says whether there was none; it never repeats the key."""
    door = Door(KeyRing.load(path))
    assert door.admit(KITCHEN).name == "kitchen"
    for nothing in (None, ""):
        with pytest.raises(UnauthorizedError, match="API key is needed") as caught:
            door.admit(nothing)
        assert caught.value.is_missing
    with pytest.raises(UnauthorizedError, match="not known") as caught:
        door.admit("guess-0123456789")
    assert not caught.value.is_missing
    assert "guess" not in str(caught.value)


def test_a_key_may_come_so_often(path: Path) -> None:
    """Each key has its own allowance, refilled steadily; who has used it up hears when to come again."""
    clock = Clock()
    door = Door(KeyRing.load(path), rate_limit_per_minute=3, clock=clock)
    for _ in range(2):
        door.admit(NIGHT)
    with pytest.raises(RateLimitedError, match="2 requests per minute are the limit of night") as caught:
        door.admit(NIGHT)
    assert caught.value.retry_after_s == 30
    for _ in range(3):
        door.admit(KITCHEN)
    with pytest.raises(RateLimitedError, match="3 requests per minute"):
        door.admit(KITCHEN)
    clock.now_s += 29.9
    with pytest.raises(RateLimitedError):
        door.admit(NIGHT)
    clock.now_s += 0.2
    door.admit(NIGHT)
    with pytest.raises(RateLimitedError):
        door.admit(NIGHT)


def test_looking_costs_nothing(path: Path) -> None:
    """Only translations count: a check takes nothing from the allowance."""
    door = Door(KeyRing.load(path), clock=Clock())
    for _ in range(10):
        door.check(NIGHT)
    door.admit(NIGHT)
    door.admit(NIGHT)


def test_without_keys_all_share_one_allowance() -> None:
    """A rate without keys is of all callers together."""
    door = Door(rate_limit_per_minute=1, clock=Clock())
    door.admit("one")
    with pytest.raises(RateLimitedError, match="anybody"):
        door.admit("two")


def test_a_bucket_holds_a_minute() -> None:
    """However long nobody comes, no more than one minute's allowance gathers."""
    bucket = TokenBucket.full(60, 0.0)
    assert sum(bucket.take(10_000.0) == 0 for _ in range(100)) == 60
    assert bucket.take(10_000.5) == pytest.approx(0.5)


def test_a_slow_rate_lets_one_in() -> None:
    """A rate below one a minute still lets the first in, and the next when it is due."""
    bucket = TokenBucket.full(0.5, 0.0)
    assert bucket.take(0.0) == 0
    assert bucket.take(0.0) == pytest.approx(120)
    assert bucket.take(121.0) == 0


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({}, None),
        ({"authorization": "Bearer abc"}, "abc"),
        ({"authorization": "bearer  abc "}, "abc"),
        ({"authorization": "DeepL-Auth-Key abc:fx"}, "abc:fx"),
        ({"authorization": "Basic abc"}, None),
        ({"authorization": "Bearer"}, None),
        ({"authorization": "abc"}, None),
        ({"x-api-key": "abc"}, "abc"),
        ({"authorization": "Basic xyz", "x-api-key": "abc"}, "abc"),
        ({"x-api-key": ""}, None),
    ],
)
def test_where_a_key_may_stand(headers: dict[str, str], key: str | None) -> None:
    """A key is taken from the headers that clients use for it, and from no other scheme."""
    assert key_in(headers) == key
