"""The supervisor: one process that owns everything but the data plane.

It binds the listeners and hands them to the workers, starts, watches, replaces and drains them, follows the files,
answers the ops and admin listeners, writes the logs. It never touches a client's bytes.

    run.py         the entry: a configuration in, an exit status out
    service.py     the order of start and end
    upkeep.py      what is in force; reloads
    fleet.py       the workers as a whole      process.py  one of them      rolling.py  all replaced in turn
    takeover.py    workers that a supervisor which died has left behind
    plan.py        what is needed of a configuration
    lookups.py     what workers ask, from files: the journal, usage.py, objects
    listeners.py   sockets      watch.py  files      keyring.py  keys      cards.py  prices      banner.py  first words
"""

from proxy.supervisor.run import run

__all__ = ["run"]
