"""What a journal is shown as: tables, figures, importance of the variables, one page."""
