"""Many threads, many processes, and forks: no failure, and no IV twice."""

from pathlib import Path
from typing import Any

from service_sites import Site, finish, new_key, run, seal, start, unseal


def hammer(file: Path, processes: int, threads: int, operations: int) -> list[dict[str, Any]]:
    """Start several processes, let them go at one instant, and return the output of each."""
    started = [
        start("hammer", file, str(threads), str(operations), f"alias/hammer-{number}") for number in range(processes)
    ]
    for each in started:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n", finish(each)
    for each in started:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    return [finish(each)[0] for each in started]


def test_eight_threads(site: Site) -> None:
    """8 threads do 1,000 mixed operations each in one process, without a failure and without an IV twice."""
    (counts,) = hammer(site.folder / "hsmkms.toml", 1, 8, 1000)
    assert counts["failures"] == []
    assert counts["done"] == 8_000
    assert len(counts["ivs"]) > 3000
    assert len(set(counts["ivs"])) == len(counts["ivs"])


def test_four_processes(site: Site) -> None:
    """4 processes that start at one instant do 500 mixed operations each on one token and database."""
    counts = hammer(site.folder / "hsmkms.toml", 4, 2, 250)
    assert [count["failures"] for count in counts] == [[]] * 4
    assert [count["done"] for count in counts] == [500] * 4
    ivs = [iv for count in counts for iv in count["ivs"]]
    assert len(ivs) > 4 * 150
    assert len(set(ivs)) == len(ivs)
    with site.open() as kms:
        assert kms.operator.find_differences() == []
        assert unseal(kms, seal(kms, "alias/hammer-0")) == b"secret"


def test_fork(site: Site) -> None:
    """A forked child cannot use its parent's Kms, works with its own, and neither disturbs the other."""
    (output,) = run("fork", site.folder / "hsmkms.toml")
    assert output.pop("inherited") == dict.fromkeys(
        ("encrypt", "decrypt", "data key", "random", "describe", "list", "create", "differences", "attest"),
        "ForkedProcessError",
    )
    assert output == {"closing": "no error", "own": True, "status": 0, "parent": True, "from child": True, "ivs": 210}
    with site.open() as kms:
        assert new_key(kms).enabled
