"""Performance of the façade next to bare python-pkcs11 on the same token, in the same run.

Ratios are what counts: machines differ, and one machine differs from minute to minute. So the contenders take turns,
and the median of the rounds is printed.
"""

import argparse
import cProfile
import os
import platform
import pstats
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path

import msgspec
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.mechanisms import GCMParams, Mechanism

from hsmkms import Kms
from hsmkms.config import settings as config
from hsmkms.config import template as config_template
from hsmkms.config.settings import AuditSettings, PinSettings, Settings, StoreSettings, TokenSettings
from hsmkms.model.crypto import DecryptRequest, EncryptRequest
from hsmkms.model.keys import CreateKeyRequest, ListKeysRequest
from hsmkms.wiring import core as wiring
from hsmkms.wiring import new_tokens

PLAINTEXT = bytes(64)
CONTEXT = {"purpose": "bench"}
AAD = bytes(99)
"""As long as the header and the canonical context that the façade authenticates."""
ROUNDS = 5
SHORT_ROUNDS, SHORT_ROUND = 300, 100
"""How often processor time is measured, and over how many calls."""


def make_installation(folder: Path, store: StoreSettings | None = None) -> Settings:
    """A SoftHSM token and an installation on it, both in ``folder``; ``store``: where its database is."""
    pin = folder / "pin"
    pin.touch(mode=0o600)
    pin.write_text("bench-user-pin\n")
    module, made = new_tokens.make_softhsm_token(
        None, folder / "softhsm", label="bench", user_pin="bench-user-pin", so_pin="bench-so-pin"
    )
    token = TokenSettings(
        module=module, label="bench", serial=made.serial, pin=PinSettings(file=pin), environment=made.environment
    )
    file = folder / "hsmkms.toml"
    store = store or StoreSettings()
    settings = Settings(account_id="000000000000", regions=("us-east-1",), token=token, store=store)
    file.write_text(config_template.init_text(settings))
    settings = config.load(file)
    wiring.initialise(settings)
    return settings


def rate(act: Callable[[], object], threads: int, seconds: float) -> float:
    """Calls a second of ``act`` from ``threads`` threads together."""
    counts = [0] * threads
    barrier = threading.Barrier(threads + 1)
    end = [0.0]

    def work(slot: int) -> None:
        barrier.wait()
        done = 0
        while time.perf_counter() < end[0]:
            for _ in range(20):
                act()
            done += 20
        counts[slot] = done

    workers = [threading.Thread(target=work, args=(slot,)) for slot in range(threads)]
    for worker in workers:
        worker.start()
    started = time.perf_counter()
    end[0] = started + seconds
    barrier.wait()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - started)


def medians(contenders: dict[str, Callable[[], float]]) -> dict[str, float]:
    """The median of each contender's rates over rounds in which they take turns."""
    rounds = [{name: measure() for name, measure in contenders.items()} for _ in range(ROUNDS)]
    return {name: statistics.median(each[name] for each in rounds) for name in contenders}


class Bare:
    """python-pkcs11 with nothing around it: one session and one key object for each thread, IVs from the token."""

    def __init__(self, kms: Kms, cka_id: bytes) -> None:
        self._device = kms.operator._core.device
        self._cka_id = cka_id
        self._local = threading.local()
        self._iv_of_sealed = self._iv()
        self._sealed = self._key().encrypt(
            PLAINTEXT, mechanism=Mechanism.AES_GCM, mechanism_param=self._params(self._iv_of_sealed)
        )

    def encrypt(self) -> object:
        """One AES-GCM encryption of 64 bytes with a fresh IV."""
        return self._key().encrypt(PLAINTEXT, mechanism=Mechanism.AES_GCM, mechanism_param=self._params(self._iv()))

    def decrypt(self) -> object:
        """One AES-GCM decryption of 64 bytes."""
        return self._key().decrypt(
            self._sealed, mechanism=Mechanism.AES_GCM, mechanism_param=self._params(self._iv_of_sealed)
        )

    def _params(self, iv: bytes) -> GCMParams:
        return GCMParams(
            iv,
            b"additional authenticated data of about a hundred bytes, as hsmkms has it, header and context.....",
            128,
        )

    def _iv(self) -> bytes:
        ready = getattr(self._local, "ivs", None)
        if not ready:
            block = self._session().generate_random(64 * 12 * 8)
            ready = self._local.ivs = [block[at : at + 12] for at in range(0, len(block), 12)]
        iv: bytes = ready.pop()
        return iv

    def _session(self):
        if not hasattr(self._local, "session"):
            self._local.session = self._device.connection.token.open(rw=True)
        return self._local.session

    def _key(self):
        if not hasattr(self._local, "key"):
            wanted = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.ID: self._cka_id}
            (self._local.key,) = self._session().get_objects(wanted)
        return self._local.key


def facade(kms: Kms, key_id: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """Encrypt and Decrypt of 64 bytes through `Kms`, with an encryption context."""
    encrypt = EncryptRequest(key_id=key_id, plaintext=PLAINTEXT, encryption_context=CONTEXT)
    blob = kms.encrypt(encrypt).ciphertext_blob
    decrypt = DecryptRequest(ciphertext_blob=blob, encryption_context=CONTEXT)
    return (lambda: kms.encrypt(encrypt)), (lambda: kms.decrypt(decrypt))


def bench_facade(kms: Kms, seconds: float) -> None:
    """Façade next to bare python-pkcs11 on 1, 2 and 8 threads: rates, and on one thread processor time as well.

    Beside other work only the processor time says something: the least of short rounds in which both take turns.
    """
    key_id = kms.create_key(CreateKeyRequest(description="bench")).key_metadata.key_id
    bare = Bare(kms, bytes.fromhex(kms.operator.attest(key_id)[0].cka_id))
    encrypt, decrypt = facade(kms, key_id)
    print("| threads | operation | façade/s | bare python-pkcs11/s | ratio |\n|---|---|---|---|---|")
    for threads in (1, 2, 8):
        for name, ours, theirs in (("Encrypt", encrypt, bare.encrypt), ("Decrypt", decrypt, bare.decrypt)):
            found = medians(
                {"ours": partial(rate, ours, threads, seconds), "theirs": partial(rate, theirs, threads, seconds)}
            )
            ratio = found["ours"] / found["theirs"]
            print(f"| {threads} | {name} | {found['ours']:,.0f} | {found['theirs']:,.0f} | {ratio:.2f} |")
    print("\n| operation | façade, µs of processor time | bare python-pkcs11, µs | ratio |\n|---|---|---|---|")
    for name, ours, theirs in (("Encrypt", encrypt, bare.encrypt), ("Decrypt", decrypt, bare.decrypt)):
        taken = [(processor_microseconds(ours), processor_microseconds(theirs)) for _ in range(SHORT_ROUNDS)]
        least, median = ([figure(column) for column in zip(*taken, strict=True)] for figure in (min, statistics.median))
        print(
            f"| {name} | {least[0]:.1f} (median {median[0]:.1f}) | {least[1]:.1f} (median {median[1]:.1f}) | "
            f"{least[1] / least[0]:.2f} (of the medians {median[1] / median[0]:.2f}) |"
        )


def processor_microseconds(act: Callable[[], object]) -> float:
    """The processor time of one call in this thread, over a round too short to be interrupted often."""
    started = time.thread_time()
    for _ in range(SHORT_ROUND):
        act()
    return (time.thread_time() - started) / SHORT_ROUND * 1e6


def bench_keys(kms: Kms, seconds: float, most: int) -> None:
    """One key, and all keys in turn, while the installation has few and many keys.

    Encrypt is measured under one key: under each key its first encryptions also pay for the leases of its counter.
    """
    print("\n| KMS keys | Encrypt/s, one key | Decrypt/s, every key in turn | create-key, ms each |\n|---|---|---|---|")
    made: list[str] = []
    for count in (10, most):
        started = time.perf_counter()
        fresh = count - len(made)
        made += [kms.create_key(CreateKeyRequest()).key_metadata.key_id for _ in range(fresh)]
        milliseconds = (time.perf_counter() - started) / fresh * 1000
        one, _ = facade(kms, made[0])
        endless = cycle([facade(kms, key_id)[1] for key_id in made])
        for _ in made:  # each key's record and handle are looked up once
            next(endless)()
        found = medians({"one": partial(rate, one, 1, seconds), "all": partial(rate, in_turn(endless), 1, seconds)})
        print(f"| {count:,} | {found['one']:,.0f} | {found['all']:,.0f} | {milliseconds:.1f} |")


def in_turn(acts: Iterator[Callable[[], object]]) -> Callable[[], object]:
    """The next act at each call."""
    return lambda: next(acts)()  # noqa: PLW0108 - a fresh act at each call is the point


def bench_commands(settings: Settings) -> None:
    """Processor time of whole commands, with all these keys on the token: the best of the rounds."""
    data = settings.data_dir
    environment = os.environ | {"HSMKMS_CONFIG": str(data / "hsmkms.toml")}
    with Kms(wiring.core_of(settings)) as kms:
        key_id = kms.list_keys(ListKeysRequest(limit=1)).keys[0].key_id
    print("\n| command | s of processor time |\n|---|---|")
    for words in (
        ("--help",),
        ("encrypt", "--help"),
        ("describe-key", "--key-id", key_id),
        ("encrypt", "--key-id", key_id, "--plaintext", "aGVsbG8="),
    ):
        seconds = min(_processor_seconds(words, environment) for _ in range(ROUNDS))
        print(f"| `{' '.join(words).replace(key_id, 'KEY_ID')}` | {seconds:.2f} |")


def _processor_seconds(words: Sequence[str], environment: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "hsmkms", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def bench_open(settings: Settings) -> None:
    """How long a new process needs to open the installation and encrypt once."""
    started = time.perf_counter()
    with Kms(wiring.core_of(settings)) as kms:
        opened = time.perf_counter()
        key_id = kms.list_keys(ListKeysRequest(limit=1)).keys[0].key_id
        kms.encrypt(EncryptRequest(key_id=key_id, plaintext=PLAINTEXT))
        print(
            f"\nOpened in {opened - started:.2f} s, first encryption after {time.perf_counter() - opened:.2f} s more, "
            "with all these keys on the token."
        )


def profile(kms: Kms) -> None:
    """Where the façade's own time goes."""
    key_id = kms.create_key(CreateKeyRequest()).key_metadata.key_id
    encrypt, _ = facade(kms, key_id)
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(20_000):
        encrypt()
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one measurement")
    parser.add_argument("--keys", type=int, default=10_000, help="keys of the large installation; 0 leaves it out")
    parser.add_argument("--audit", choices=("off", "interval", "commit"), default="off", help="its durability")
    parser.add_argument("--profile", action="store_true", help="profile Encrypt instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hsmkms-bench-") as folder:
        made = make_installation(Path(folder))
        settings = msgspec.structs.replace(made, audit=AuditSettings(durability=arguments.audit))
        with Kms(wiring.core_of(settings)) as kms:
            print(
                f"Python {platform.python_version()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}; 64 bytes; "
                f"audit log {arguments.audit}; load before: {os.getloadavg()[0]:.1f}\n"
            )
            if arguments.profile:
                profile(kms)
                return
            bench_facade(kms, arguments.seconds)
            if arguments.keys:
                bench_keys(kms, arguments.seconds, arguments.keys)
        if arguments.keys:
            bench_open(settings)
            bench_commands(settings)


if __name__ == "__main__":
    main()
