"""The old path of ``voice_cloning.data_check.report_page``, kept for this release only."""

import warnings

from voice_cloning.data_check.report_page import *  # noqa: F403

warnings.warn(
    "tools.prepare_data.report_page has moved: import voice_cloning.data_check.report_page; "
    "release 0.2 removes the old path",
    FutureWarning,
    stacklevel=2,
)
