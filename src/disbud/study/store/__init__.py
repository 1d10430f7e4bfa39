"""The store: trials that were run, with their tickets, weights and measures, in a folder that outlives every crash."""

from disbud.study.store.folder import store_folder
from disbud.study.store.store import Freed, KeptStudy, Store

__all__ = ["Freed", "KeptStudy", "Store", "store_folder"]
