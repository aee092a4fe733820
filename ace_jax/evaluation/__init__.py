"""From predictions to what a researcher reads: scores, effects, intervals and figures."""
