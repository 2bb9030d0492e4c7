"""The response cache: what may be kept, under which key, and where; and who shares what is made."""
