"""The first stage: where rows come from, as rows by number.

Only the settings are re-exported here, so that `raysb --help` loads neither numpy nor pyarrow; the
rest is imported from its module, `from raysb.source.open import open_sources` first of all.
"""

from raysb.source.settings import Data as Data

__all__ = ["Data"]
