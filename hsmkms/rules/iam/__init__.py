"""Who may do what: policies, their conditions, principals and grants."""
