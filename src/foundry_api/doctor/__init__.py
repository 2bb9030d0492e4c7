"""Doctor: what is wrong on this machine, and how to mend it.

A group of checks is a module; `groups.GROUPS` lists them. A check looks at the machine and returns
findings, each of a kind that its module declares. `run.examine` runs them all at once.
"""
