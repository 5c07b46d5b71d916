"""Device tests that apply to SoftHSM only, with the reason, for the drivers of other modules."""

from typing import Final

from tokens.driver import Reason

_FILES: Final = "it is about SoftHSM's own configuration, its files, or tokens beside each other in one slot list"
_ANSWERS: Final = "it compares with what SoftHSM 2.6.1 was measured to answer"
_SOURCE: Final = "it reads the source, whichever module is under test"
_LOG: Final = "it counts what pkcs11-spy logs of SoftHSM"


def _reasons(reason: str, *tests: str) -> tuple[Reason, ...]:
    return tuple(Reason(rf"test_hsm_{each}\b", reason) for each in tests)


SOFTHSM_FILES: Final = _reasons(
    _FILES,
    r"softhsm\.py",
    r"two_tokens\.py",
    r"token_choice\.py::test_token_that_was_not_shown_at_first",
    r"calls\.py::test_remote_module_has_one_connection",
    r"login\.py::test_token_without_user_pin",
    r"module\.py::test_(?:wrong_environment|reserved_reaches_the_module|missing_folder_in_the_parameters|second_environment_is_refused|module_of_others_is_refused)",
)
"""For every module but SoftHSM, also where SoftHSM is behind it."""

MEASURED_ON_SOFTHSM: Final = (
    *SOFTHSM_FILES,
    *_reasons(
        _ANSWERS,
        r"profile\.py::test_(?:profile|checks|failed_check_is_reported|mechanisms|limits)",
        r"objects\.py::test_(?:backing_key|installation_key)_is_as_ordered",
        r"pairs\.py::test_the_table_is_consistent",
        r"keypairs\.py::test_(?:prehashed_ed25519_is_refused|the_known_answer_can_be_met|where_padding_is_removed)",
        r"keypairs\.py::test_(?:a_token_without_raw_rsa|foreign_objects_have_no_kind|specs_that_the_token_lacks)",
        r"keypairs\.py::test_keys_that_could_not_be_used",
        r"data_key_pairs\.py::test_specs_that_the_token_lacks",
        r"token_check\.py::test_what_softhsm_lacks",
        r"module\.py::test_(?:description|configuration_is_read_again|last_user_finalises)",
        r"unwrapping\.py::test_(?:attributes_of_an_imported_key|imported_and_generated_are_not_confused)",
        r"unwrapping\.py::test_(?:algorithm_that_is_not_done|trouble_is_not_bad_data|lengths_by_the_thousand)",
        r"wrapping\.py::test_(?:softhsm|host_unwrap|probe_is_lazy_and_done_once|lost_session_is_no_answer)",
        r"wrapping\.py::test_wrapping_key_is_as_ordered",
    ),
    *_reasons(
        _SOURCE,
        r"permits\.py::test_(?:acts_on_the_token|only_the_ports|permits_are|the_analysis)\w*",
    ),
    *_reasons(
        _LOG,
        r"data_key_pairs_spy\.py",
        r"import_spy\.py",
        r"pairs_spy\.py::test_no_private_value_is_read_or_brought",
        r"objects\.py::test_(?:template_on_the_wire|probe_leaves_session_objects_only|material_stays_on_the_token)",
    ),
)
"""For modules with another token behind them: capabilities.py compares with other implementations instead."""
