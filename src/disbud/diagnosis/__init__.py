"""The forecast: which methods leave a network that can be trained, told before any training."""

from disbud.diagnosis.balance import balance
from disbud.diagnosis.doctor import Diagnosis, doctor
from disbud.diagnosis.findings import Finding, findings
from disbud.diagnosis.signs import Signs, signs

__all__ = ["Diagnosis", "Finding", "Signs", "balance", "doctor", "findings", "signs"]
