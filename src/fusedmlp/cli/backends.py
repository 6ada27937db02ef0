"""``fusedmlp backends``: the state of every backend, and the command that would repair it."""

from fusedmlp.cli import console
from fusedmlp.cli.options import Json

DEFAULT_SIZES = (784, 256, 10)
"""Network of the default recipe on MNIST, for which ``auto`` would choose."""

DEFAULT_ROWS = 60_000

_STYLES = {"usable": "green", "missing": "yellow", "no-device": "yellow", "broken": "red"}


def backends(json_: Json = False) -> None:
    """List the backends that work here, how to repair the others, and what auto would choose.

    Example: fusedmlp backends --json
    """
    from rich.text import Text

    from fusedmlp.backend import Workload
    from fusedmlp.cli.recipes import DEFAULT_RECIPE
    from fusedmlp.network import Network
    from fusedmlp.registry import AUTO, availability, backend_class, select

    workload = Workload(Network(DEFAULT_SIZES), DEFAULT_RECIPE.batch_size, DEFAULT_ROWS)
    found = availability()
    preferences = {
        name: backend_class(name).preference(workload)
        for name, state in found.items()
        if state.state == "usable"
    }
    choice = select(AUTO, workload)
    if json_:
        console.print_json(
            {
                "backends": {
                    name: {
                        "state": state.state,
                        "detail": state.detail,
                        "remedy": state.remedy or None,
                        "preference": preferences[name].score if name in preferences else None,
                        "reason": preferences[name].reason if name in preferences else None,
                    }
                    for name, state in found.items()
                },
                "auto": {
                    "choice": str(choice),
                    "reason": choice.reason,
                    "workload": f"{workload.network}, batches of {workload.batch_size}",
                },
            }
        )
        return
    for name, state in found.items():
        head = (f"{name:<{console.LABEL_WIDTH}}", "bold"), (state.state, _STYLES[state.state])
        console.show(Text.assemble(*head))
        preference = preferences.get(name)
        reason = "" if preference is None else preference.reason
        rows = {"found": state.detail, "remedy": state.remedy, "for MNIST": reason}
        console.results([(label, text) for label, text in rows.items() if text], indent=2)
        console.show("")
    network = "-".join(map(str, DEFAULT_SIZES))
    answer = f"would choose {choice} to train {network} on MNIST: {choice.reason}"
    console.results([("auto", answer)])
