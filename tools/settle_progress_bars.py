"""Replace the progress bars of executed notebooks by the text that they ended with.

    python tools/settle_progress_bars.py NOTEBOOK...

A bar is a widget. GitHub and other viewers without a kernel draw no widgets: they show the text that was stored when
the bar was made, which says 0%.
"""

import argparse
import html
import json
from pathlib import Path

VIEW, STATE = (f"application/vnd.jupyter.widget-{kind}+json" for kind in ("view", "state"))


def settle(notebook: dict) -> None:
    """Replace the widgets in a notebook's outputs by text; bars that were closed leave none."""
    models = notebook["metadata"].pop("widgets", {}).get(STATE, {}).get("state", {})
    states = {f"IPY_MODEL_{name}": model["state"] for name, model in models.items()}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            view = output.get("data", {}).pop(VIEW, None)
            if view:
                output["data"]["text/plain"] = text(states, f"IPY_MODEL_{view['model_id']}")
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if output.get("data") != {"text/plain": ""}]


def text(states: dict[str, dict], name: str) -> str:
    """Return the text of tqdm's widget, drawn as tqdm does on a terminal; empty if it is hidden or gone."""
    box = states.get(name, {})
    if "children" not in box or states[box["layout"]].get("visibility") == "hidden":
        return ""
    left, bar, right = (states[child] for child in box["children"])
    drawn = "█" * min(10, round(10 * bar["value"] / bar["max"]))
    return html.unescape(f"{left['value']}|{drawn:<10}|{right['value']}").replace("\u2007", " ")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebooks", type=Path, nargs="+", help="executed notebooks, which are changed in place")
    for path in parser.parse_args().notebooks:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        settle(notebook)
        path.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
