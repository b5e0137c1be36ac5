"""The ground floor: texts, budgets, contracts and the run of one request. Imports nothing of ours."""
