"""The endpoints beside chat completions: what is asked, sent under guard and put right."""
