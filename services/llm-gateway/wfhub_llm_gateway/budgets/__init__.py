"""Budgets of model use: prices and grants are rules, `accounts` are their rows in Postgres."""
