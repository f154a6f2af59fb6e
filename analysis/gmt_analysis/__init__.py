"""Statistics, figures and reports over the typed table of a study. Knows neither Ray nor MLflow nor torch."""
