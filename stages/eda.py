"""eda: what the prepared cohort looks like → reports/eda/*.png and reports/eda.html."""

from pathlib import Path

from strokect.eda import explore
from strokect.eda_page import WARNING, render_page
from strokect.eda_plots import draw, to_png
from strokect.errors import run_stage
from strokect.files import atomic_folder, write_text
from strokect.manifest import load_prepared


def main() -> None:
    """Read data/prepared, write the plots and the page."""
    seen = explore(load_prepared())
    with atomic_folder("reports/eda") as folder:
        for name, figure in draw(seen).items():
            (folder / f"{name}.png").write_bytes(to_png(figure))
    write_text(Path("reports/eda.html"), render_page(seen))
    print(seen.classes.to_string())
    print("eda: reports/eda.html and the plots in reports/eda/")
    if not seen.synthetic:
        print(f"WARNING: {WARNING}")


if __name__ == "__main__":
    run_stage(main)
