"""``python -m handoff_dask`` runs the command ``handoff-dask``."""

from __future__ import annotations

from handoff_dask._cli.main import main

if __name__ == "__main__":
    main()
