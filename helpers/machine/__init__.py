"""00 and 01: what this computer and this Python are, and whether the runbook can work here.

Reads facts first, judges them afterwards, and changes nothing. It must not know worlds being played.
Start reading at `judge.check_machine`; `doctor` puts every room's checks into one report.
"""
