"""The pruned network with its dead channels physically removed: smaller, exact, an ordinary module."""

from disbud.compaction.account import Account, LayerAccount
from disbud.compaction.compact import compact
from disbud.compaction.compacted import Compacted
from disbud.compaction.kept import Kept
from disbud.compaction.onnx import to_onnx
from disbud.compaction.saving import load

__all__ = ["Account", "Compacted", "Kept", "LayerAccount", "compact", "load", "to_onnx"]
