"""From a survey's answer files to cells: what each persona answered, as a distribution."""
