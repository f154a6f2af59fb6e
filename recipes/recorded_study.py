"""Puts a study of this folder into docs: its runs as CSV, some of its figures as one picture.

python -m recipes.recorded_study docs target_long_words,forgetting_long_words study=ratio_insensitivity
"""

import argparse
from pathlib import Path

from gmt_analysis.rendering import as_image
from gmt_analysis.report import write_report
from PIL import Image

from gmt.studies.opened import planned

WIDTH = 1400  # pixels


def main() -> None:
    """Writes NAME.csv and NAME.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("figures", help="names of the report's figures, top to bottom, with commas between")
    parser.add_argument("overrides", nargs="+", help="the study, as it was swept")
    parser.add_argument("--config-dir")
    args = parser.parse_args()
    plan, _ = planned(args.overrides, args.config_dir)
    made = write_report(plan)
    tables = {path.name: path for path in made.files if path.suffix == ".csv"}
    runs = tables["runs.csv"].read_text(encoding="utf-8")
    (args.folder / f"{plan.study.name}.csv").write_text(runs, encoding="utf-8")
    pictures = [as_image(made.figures[name]).convert("RGB") for name in args.figures.split(",")]
    pictures = [each.resize((WIDTH, each.height * WIDTH // each.width), Image.Resampling.LANCZOS) for each in pictures]
    page = Image.new("RGB", (WIDTH, sum(each.height for each in pictures)), "white")
    top = 0
    for each in pictures:
        page.paste(each, (0, top))
        top += each.height
    page.save(args.folder / f"{plan.study.name}.png", optimize=True)


if __name__ == "__main__":
    main()
