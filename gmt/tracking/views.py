"""Prepares the MLflow page that `gmt ui` opens: training runs, grouped by choice, with the columns of a study.

MLflow (3.17) stores the state of a shared view as JSON in a tag of the experiment: `searchFilter` and the other parts
of its address, and the state of its table. It opens pages for language model applications unless the address or the
browser's storage says otherwise.
"""

import json
from collections.abc import Mapping, Sequence

# The most characters of a run's description, which is a tag: MLflow cuts off the rest (mlflow.utils.validation).
LONGEST_DESCRIPTION = 8000
_KEY = "gmt"
TAG = f"mlflow.sharedViewState.{_KEY}"
TRAINING = "workflowType=machine_learning"
STORAGE: Mapping[str, str] = {"mlflow.workflowType_v1": '"machine_learning"'}  # values for the browser's storage
CHOICE = "gmt.choice"  # the tag of a run's choice: arm, value of the axis, and other varied settings but the seed
_METRICS = ("result/target_after", "result/forgetting")


def page_of(experiment_id: str, run_id: str | None = None) -> str:
    """Return the address of the prepared view, or of a run, relative to the server's address."""
    runs = f"#/experiments/{experiment_id}/runs"
    return f"{runs}?viewStateShareKey={_KEY}&{TRAINING}" if run_id is None else f"{runs}/{run_id}?{TRAINING}"


def prepared_view(tags: Sequence[str]) -> str:
    """Return the state of a view of a study's compared runs, grouped by choice, with the best target score first.

    MLflow shows a group by its value if it groups by one tag, else by the names of the tags, of which it cuts off all
    but the first.

    Args:
        tags: the tags that are columns, e.g. task, arm and value of the axis.
    """
    state = {
        "searchFilter": "tags.`gmt.kind` = 'run' AND tags.`gmt.stage` = 'comparison'",
        "orderByKey": f"metrics.`{_METRICS[0]}`",
        "orderByAsc": False,
        "selectedColumns": [
            *(f"metrics.`{name}`" for name in _METRICS),
            *(f"tags.`{tag}`" for tag in (*tags, "gmt.seed")),
        ],
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": CHOICE}],
        },
    }
    return json.dumps(state)
