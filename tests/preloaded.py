"""What the fork server of tests/warm.py imports once: whatever `gmt` takes seconds to import."""

import gc
from importlib import import_module

for _name in (
    "alembic.command",
    "gmt.commands.report",
    "gmt.commands.run",
    "gmt.commands.show",
    "gmt.evaluation.suites",
    "gmt.runs.execute",
    "gmt.studies.tracked",
    "gmt.tasks.reasoning_gym",
    "gmt.tracking.mlflow_view",
    "gmt.training.train",
    "gmt_analysis.report",
    "hydra",
    "matplotlib.backends.backend_pdf",
    "matplotlib.backends.backend_svg",
    "mlflow.store.tracking.sqlalchemy_store",
    "reasoning_gym",
    "rich.live",
):
    import_module(_name)
gc.collect()
gc.freeze()  # or each fork's first collection would copy the pages of every object
