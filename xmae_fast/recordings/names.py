"""The usual names of channels of PPG and ECG, in one table, to which names can be added."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

_LEADS = "i|d?ii|d?iii|mlii|ml2|v[1-6]?|mcl1?|av[rlf]"
_LIMB = r"(l[al]|r[al]|n)"
_PPG = r"(photo ?)?pleth[a-z]*|photo ?plethysmogra[a-z]*|plethysmogra[a-z]*|r?ppgs?(red|green|ir|infrared)?|bvp"
_ECG = r"ecgs?|ekgs?|(electro|elektro)[ck]ardiogra[a-z]*|holter"
_WAVE = r"wave|waves|waveform|wav|curve|sig|signal|raw|trace|analog|pleth[a-z]*"
_COLOURS = r"green|infra ?red|ir|red|nir|optical"

# A name with one of these words is that of a number or of another quantity, such as "PLETH_HR" or "ECG_Quality".
_OTHERS = (
    "hr|pr|bpm|rate|rates|heartrate|pulserate|sqi|quality|index|pi|pvi|perf|perfusion|resp|respiration|rr|ibi|ibis|nn|"
    "hrv|interval|intervals|peak|peaks|onset|onsets|offset|offsets|foot|feet|phase|completion|amplitude|amp|avg|mean|"
    "median|std|temp|temperature|acc|accel[a-z]*|gyro[a-z]*|mag|magnetometer|imu|time|times|timestamp|date|status|"
    "state|flag|flags|event|events|marker|markers|label|labels|annotation|annotations|battery|noise|motion|artifact|"
    "artefact|valid|current|ambient|gain|count|counter|fs|sfreq|sampling|freq|frequency|hz|off|loss|impedance|st|qt|"
    "beats?|alarm|gsr|eda|abp|bp|nibp|sbp|dbp|map|ptt|pat"
)


class Usual(NamedTuple):
    """Names that suit a kind of signal equally well.

    Args:
        pattern: a regular expression.
        whole: whether it must match the whole name, as `plain` gives it. Otherwise it may match some whole words of the
            name, as `words` gives it, if the name has no word of another quantity.
    """

    pattern: str
    whole: bool = False

    def suits(self, name: str) -> bool:
        """Whether a name, as `plain` or `words` gives it, is one of these."""
        if self.whole:
            return re.fullmatch(self.pattern, name) is not None
        if re.search(rf"\b({_OTHERS})\d*\b", name) or re.search(r"\b(spo|sao)2?( \d)?$", name):
            return False
        return re.search(rf"(^| )({self.pattern})( |$)", name) is not None


# The names of each kind, best first; of several channels whose names suit equally well, quality chooses.
USUAL_NAMES: dict[str, tuple[Usual, ...]] = {
    "PPG": (
        # PPG, Pleth, PLETH_1, BVP, PPG_Green, raw ppg
        Usual(
            r"(raw[ _-]?)?(ppg|pleth|plethysmogra(m|ph)|bvp)"
            r"([ _-]?(raw|record|wave|waveform|ir|red|green|sig|signal|\d))*",
            whole=True,
        ),
        Usual(rf"({_PPG})\d*"),  # wrist_ppg, Finger PPG, PLETHr, PlethWave, ppg_filtered
        Usual(rf"(spo2?|sao2?|oximet(er|ry)|pulse( ox(imeter)?)?) ({_WAVE})\d*"),  # SpO2 waveform, Pulse wave
        Usual(rf"^(raw )?(led )?({_COLOURS})( ?(led|light|raw|sig|signal|wave|waveform|value|channel|ch|adc|\d+))*$"),
    ),
    "ECG": (
        Usual(r"((ecg|ekg)[ _-]?(lead)?[ _-]?)?(ml|d)?ii", whole=True),  # II, MLII, DII, ECG II
        Usual(r"(raw[ _-]?)?(ecg|ekg)([ _-]?(raw|record|wave|waveform|sig|signal|\d))*", whole=True),  # ECG, EKG1
        Usual(rf"((ecg|ekg)[ _-]?(lead)?[ _-]?)?({_LEADS})", whole=True),  # I, V5, aVR, ECG lead I
        Usual(rf"(lead|leads|channel|derivation|ableitung|({_ECG})) ?(ml|d)?(ii|2)"),  # Lead II, ecg_lead_ii_raw
        Usual(rf"({_ECG})\d*[lr]?"),  # chest_ecg, ECG1-ECG2, ECG LA-RA, Electrocardiogram
        Usual(rf"lead ?({_LEADS}|\d+)|^{_LIMB} {_LIMB}$"),  # Lead I, Lead V5, LL-RA
    ),
}
ADDED: dict[str, list[str]] = {"PPG": [], "ECG": []}


def add_name(kind: str, name: str) -> None:
    """Add a name, or a pattern with "*" or "?", to the usual names of channels. It goes before all that are there.

    `prepare` keeps it among its settings, and its processes know it.

    Args:
        kind: "PPG" or "ECG".
        name: is compared without case.

    Raises:
        ValueError: `kind` is another, or the name is empty.
    """
    if kind not in ADDED:
        raise ValueError(f"kind: expected 'PPG' or 'ECG', got {kind!r}")
    if not name.strip():
        raise ValueError(f"name: expected a name or a pattern, got {name!r}")
    if name.strip() not in ADDED[kind]:
        ADDED[kind].append(name.strip())


def plain(name: str) -> str:
    """A name in lower case, without its unit and what stands before the last "/"."""
    return re.sub(r"\s*[\[(].*[\])]$", "", name.rsplit("/", 1)[-1]).strip().lower()


def words(name: str) -> str:
    """The words of a name in lower case with single blanks between them: "PPGGreen-raw (V)" is "ppg green raw"."""
    name = unicodedata.normalize("NFKC", name).rsplit("/", 1)[-1]
    name = re.sub(r"[\[(].*?([\])]|$)|(?<![^\W_])\d+(\.\d+)? ?k?hz(?![^\W_])", " ", name, flags=re.IGNORECASE)
    name = re.sub(r"(?<=[a-z]{3})(?=[A-Z])|(?<=[A-Z]{3})(?=[A-Z][a-z]{2})|(?<=\d)(?=[A-Z][a-z])", " ", name)
    return " ".join(re.sub(r"[\W_]+", " ", name).lower().split())
