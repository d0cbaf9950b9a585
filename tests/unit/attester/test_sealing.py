"""Secrets sealed to a TEE: given back to the same software on the same machine, to nobody else.

The devices are fakes with the kernel's and Gramine's own bytes; no TEE was at hand.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from securetf.attester import Devices, hardware, sev_snp_sealing
from securetf.attester.sealing import TeeKey, seal, unseal
from securetf.attester.sev_snp_sealing import SnpSealingKey
from securetf.attester.sgx_sealing import MRENCLAVE, MRSIGNER, SgxSealingKey
from securetf.claims import Platform
from securetf.errors import AttesterError, UsageError
from securetf.evidence.sev_snp import SnpTcb
from support import gramine
from support.sev_guest import INVALID_PARAMETER, Guest

SECRET = bytes(range(100, 132))
TCB = Guest().committed_tcb
NEWER = SnpTcb(bootloader=TCB.bootloader, tee=TCB.tee, snp=TCB.snp + 1, microcode=TCB.microcode)
OLDER = SnpTcb(bootloader=TCB.bootloader, tee=TCB.tee, snp=TCB.snp - 1, microcode=TCB.microcode)


def guest_key(guest: Guest, *more: str) -> SnpSealingKey:
    return SnpSealingKey(guest, lambda request: bytearray(guest.answer(request)), more)


@pytest.fixture(params=["sgx", "sev_snp"])
def same(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], TeeKey]:
    """Make the key of the same software on the same machine again and again."""
    if request.param == "sgx":
        return lambda: SgxSealingKey(gramine.enclave(tmp_path))
    return lambda: guest_key(Guest())


class TestEveryPlatform:
    def test_secret_when_the_same_software_starts_again_then_given_back(
        self, same: Callable[[], TeeKey]
    ) -> None:
        blobs = [seal(same(), SECRET) for _ in range(2)]
        assert [unseal(same(), blob) for blob in blobs] == [SECRET] * 2
        assert blobs[0] != blobs[1]
        assert all(SECRET not in blob for blob in blobs)

    def test_blob_when_any_byte_is_altered_then_refused_and_never_opened(
        self, same: Callable[[], TeeKey]
    ) -> None:
        key = same()
        blob = seal(key, SECRET)
        for at in range(len(blob)):
            altered = bytearray(blob)
            altered[at] ^= 1
            with pytest.raises(AttesterError):
                unseal(key, bytes(altered))
        for sealed in (blob[-40:], blob[8 + 2 + len(key.platform.value) :][:16]):  # ciphertext, key id
            altered = bytearray(blob)
            altered[blob.index(sealed)] ^= 1
            with pytest.raises(AttesterError, match="altered, or sealed on another machine"):
                unseal(key, bytes(altered))

    def test_blob_when_cut_or_lengthened_then_refused(self, same: Callable[[], TeeKey]) -> None:
        key = same()
        blob = seal(key, SECRET)
        for size in range(len(blob)):
            with pytest.raises(AttesterError, match="ends inside"):
                unseal(key, blob[:size])
        with pytest.raises(AttesterError, match="has 1 bytes after its end"):
            unseal(key, blob + b"\0")

    def test_blob_when_of_another_version_then_refused_by_its_number(
        self, same: Callable[[], TeeKey]
    ) -> None:
        key = same()
        blob = seal(key, SECRET)
        with pytest.raises(AttesterError, match="does not start with STFTEES and version 1"):
            unseal(key, b"STFTEES\x02" + blob[8:])

    def test_keys_when_shown_or_refused_then_nothing_secret_is_said(self, same: Callable[[], TeeKey]) -> None:
        key = same()
        blob, derived = seal(key, SECRET), bytes(key.derive(key.bound_to()))
        with pytest.raises(AttesterError) as refused:
            unseal(key, blob[:-1] + bytes([blob[-1] ^ 1]))
        for text in (repr(key), str(refused.value), repr(refused.value)):
            assert derived.hex() not in text
            assert repr(derived)[2:-1] not in text
        assert refused.value.__cause__ is None

    def test_keys_when_used_then_wiped(
        self, same: Callable[[], TeeKey], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key, kept = same(), []
        derive = key.derive

        def keeping(bound_to: Any) -> bytearray:
            kept.append(derive(bound_to))
            assert any(kept[-1])
            return kept[-1]

        monkeypatch.setattr(key, "derive", keeping)
        unseal(key, blob := seal(key, SECRET))
        with pytest.raises(AttesterError, match="altered"):
            unseal(key, blob[:-1] + bytes([blob[-1] ^ 1]))
        assert len(kept) == 3
        assert not any(any(one) for one in kept)

    def test_device_when_it_gives_zeros_then_nothing_is_sealed(
        self, same: Callable[[], TeeKey], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = same()
        monkeypatch.setattr(key, "derive", lambda _: bytearray(32))
        with pytest.raises(AttesterError, match="device gave a key of zeros"):
            seal(key, SECRET)


def test_blob_when_of_another_platform_then_refused_by_name(tmp_path: Path) -> None:
    blob = seal(guest_key(Guest()), SECRET)
    with pytest.raises(AttesterError, match="is of sev_snp, and this is sgx"):
        unseal(SgxSealingKey(gramine.enclave(tmp_path)), blob)


class TestSgx:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"mr_enclave": b"\x09" * 32}, f"mr_enclave was {'01' * 32}, is {'09' * 32}"),
            ({"cpu_svn": b"\x09" * 16}, f"cpu_svn was [0-9a-f]{{32}}, is {'09' * 16}"),
            ({"isv_svn": 5}, "isv_svn was 4, is 5"),
            ({"config_svn": 1}, "config_svn was 0, is 1"),
            ({"chip": b"another"}, "altered, or sealed on another machine"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_secret_when_enclave_microcode_or_machine_is_another_then_kept_and_the_difference_is_named(
        self, tmp_path: Path, changes: dict[str, Any], reason: str
    ) -> None:
        blob = seal(SgxSealingKey(gramine.enclave(tmp_path)), SECRET)
        with pytest.raises(AttesterError, match=reason) as refused:
            unseal(SgxSealingKey(gramine.enclave(tmp_path, **changes)), blob)
        assert "start the software that sealed it, on its machine" in refused.value.fix

    def test_secret_when_sealed_to_the_signer_then_for_its_next_enclave_and_no_other_signers(
        self, tmp_path: Path
    ) -> None:
        blob = seal(SgxSealingKey(gramine.enclave(tmp_path), MRSIGNER), SECRET)
        newer = gramine.enclave(tmp_path, mr_enclave=b"\x09" * 32)
        assert unseal(SgxSealingKey(newer, MRSIGNER), blob) == SECRET
        for changes, reason in (
            ({"mr_signer": b"\x09" * 32}, "mr_signer was"),
            ({"isv_prod_id": 9}, "isv_prod_id was 3, is 9"),
        ):
            with pytest.raises(AttesterError, match=reason):
                unseal(SgxSealingKey(gramine.enclave(tmp_path, **changes), MRSIGNER), blob)

    def test_secret_when_the_file_says_another_identity_than_the_start_then_refused(
        self, tmp_path: Path
    ) -> None:
        root = gramine.enclave(tmp_path)
        for sealed, asked in ((MRSIGNER, MRENCLAVE), (MRENCLAVE, MRSIGNER)):
            blob = seal(SgxSealingKey(root, sealed), SECRET)
            with pytest.raises(AttesterError, match=r"mr_\w+.*, and this start asks for .*mr_"):
                unseal(SgxSealingKey(root, asked), blob)

    def test_report_when_asked_for_then_from_the_enclave_to_itself(self, tmp_path: Path) -> None:
        SgxSealingKey(gramine.enclave(tmp_path)).bound_to()
        assert (tmp_path / "target_info").read_bytes() == gramine.TARGET_INFO
        assert (tmp_path / "user_report_data").read_bytes() == bytes(64)

    def test_gramine_when_it_answers_otherwise_then_says_what_was_found(self, tmp_path: Path) -> None:
        key = SgxSealingKey(gramine.enclave(tmp_path))
        for name, content, reason in (
            ("keys/_sgx_mrenclave", bytes(15), "_sgx_mrenclave has another size than 16 bytes"),
            ("keys/_sgx_mrenclave", bytes(17), "_sgx_mrenclave has another size than 16 bytes"),
            ("report", bytes(431), "report has 431 bytes, expected 432"),
            ("report", bytes(433), "report has more than 432 bytes"),
            ("my_target_info", b"", "my_target_info has 0 bytes, expected 512"),
        ):
            gramine.enclave(tmp_path)
            (tmp_path / name).write_bytes(content)
            with pytest.raises(AttesterError, match=reason):
                seal(key, SECRET)
        gramine.enclave(tmp_path)
        (tmp_path / "keys/_sgx_mrenclave").unlink()
        with pytest.raises(AttesterError, match="_sgx_mrenclave cannot be read: No such file") as refused:
            seal(key, SECRET)
        assert "gramine-sgx" in refused.value.fix


class TestSevSnp:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"measurement": b"\x09" * 48}, f"measurement was {'01' * 48}, is {'09' * 48}"),
            ({"policy": 1 << 17 | 1 << 19 | 0x1F}, "guest_policy was 0x2001f, is 0xa001f"),
            ({"vmpl": 1}, "vmpl was 0, is 1"),
            ({"committed_tcb": OLDER}, "tcb_version was [0-9a-f]{16}, is [0-9a-f]{16}"),
            ({"secret": b"another chip"}, "altered, or sealed on another machine"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_secret_when_image_policy_firmware_or_chip_is_another_then_kept_and_the_difference_is_named(
        self, changes: dict[str, Any], reason: str
    ) -> None:
        blob = seal(guest_key(Guest()), SECRET)
        with pytest.raises(AttesterError, match=reason) as refused:
            unseal(guest_key(Guest().but(**changes)), blob)
        assert "start the software that sealed it, on its machine" in refused.value.fix

    def test_secret_when_the_firmware_is_newer_then_given_back(self) -> None:
        blob = seal(guest_key(Guest()), SECRET)
        assert unseal(guest_key(Guest().but(committed_tcb=NEWER)), blob) == SECRET

    def test_secret_when_bound_to_more_then_that_counts_too(self) -> None:
        names = ("image_id", "family_id", "guest_svn")
        blob = seal(guest_key(Guest(), *names), SECRET)
        assert unseal(guest_key(Guest().but(guest_svn=3), *names), blob) == SECRET
        for changes, reason in (
            ({"image_id": b"\x09" * 16}, "image_id was"),
            ({"family_id": b"\x09" * 16}, "family_id was"),
            ({"guest_svn": 1}, "guest_svn was 2, is 1"),
        ):
            with pytest.raises(AttesterError, match=reason):
                unseal(guest_key(Guest().but(**changes), *names), blob)

    def test_secret_when_the_file_names_fewer_fields_than_the_start_then_refused(self) -> None:
        """Else whoever can run a guest of their own with the same few fields chooses the root key."""
        blob = seal(guest_key(Guest()), SECRET)
        with pytest.raises(AttesterError, match=r"and this start asks for .*image_id"):
            unseal(guest_key(Guest(), "image_id"), blob)

    def test_request_when_made_then_selects_vcek_policy_measurement_and_firmware(self) -> None:
        asked = []

        def exchange(request: bytes) -> bytearray:
            asked.append(request)
            return bytearray(Guest().answer(request))

        seal(SnpSealingKey(Guest(), exchange), SECRET)
        committed = Guest().report(bytes(64))[0x1E0:0x1E8]
        assert asked == [bytes(8) + b"\x29" + bytes(7) + bytes(8) + committed]

    def test_device_when_it_is_the_kernels_then_its_structures_are_filled_in(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "sev-guest"
        path.touch()
        Guest().install(monkeypatch)
        key = SnpSealingKey(Guest(), sev_snp_sealing.device(path))
        blob = seal(guest_key(Guest()), SECRET)
        assert unseal(key, blob) == SECRET

    def test_device_when_absent_no_such_device_or_refusing_then_says_so(self, tmp_path: Path) -> None:
        absent = SnpSealingKey(Guest(), sev_snp_sealing.device(tmp_path / "absent"))
        with pytest.raises(AttesterError, match="absent cannot be opened: No such file"):
            seal(absent, SECRET)
        null = SnpSealingKey(Guest(), sev_snp_sealing.device(Path("/dev/null")))
        with pytest.raises(AttesterError, match=r"derived no key: Inappropriate ioctl.*firmware error 0x0"):
            seal(null, SECRET)
        refusing = SnpSealingKey(
            Guest(), lambda _: bytearray(INVALID_PARAMETER.to_bytes(4, "little") + b"\x07" * 60)
        )
        with pytest.raises(AttesterError, match="derived no key: status 0x16"):
            seal(refusing, SECRET)

    def test_answer_when_used_then_wiped(self) -> None:
        answers = []

        def exchange(request: bytes) -> bytearray:
            answers.append(bytearray(Guest().answer(request)))
            return answers[-1]

        seal(SnpSealingKey(Guest(), exchange), SECRET)
        assert not any(answers[0])


def test_sealing_when_named_by_an_operator_then_made_or_refused_with_what_can_be_chosen() -> None:
    devices = Devices()
    assert hardware.sealing_key(Platform.SGX, devices, ()).platform is Platform.SGX
    assert hardware.sealing_key(Platform.SGX, devices, ("mrsigner",)).platform is Platform.SGX
    assert hardware.sealing_key(Platform.SEV_SNP, devices, ("image_id",)).platform is Platform.SEV_SNP
    for platform, choice, reason in (
        (Platform.SGX, ("mrenclave", "mrsigner"), "not of 'mrenclave, mrsigner'"),
        (Platform.SGX, ("config_id",), "not of 'config_id'"),
        (Platform.SEV_SNP, ("measurement",), "no fields 'measurement'"),
        (Platform.SEV_SNP, ("image_id", "image_id"), "has one twice"),
    ):
        with pytest.raises(UsageError, match=reason):
            hardware.sealing_key(platform, devices, choice)
