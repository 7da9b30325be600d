"""`from mirage_nb import viz` is quick, and every name it offers is there."""

from __future__ import annotations

import subprocess
import sys


def test_names_load_at_first_use():
    code = (
        "import sys; from mirage_nb import viz\n"
        "assert not {'torch', 'matplotlib', 'plotly', 'ipywidgets'} & set(sys.modules)\n"
        "assert all(getattr(viz, name) is not None for name in viz.__all__)\n"
        "assert 'open3d' not in sys.modules and not hasattr(viz, 'no_such_name')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
