"""What the platform keeps: PostgreSQL (its own or the operator's), the raw archive, and how both are read and written.

Every statement of SQL lives here. What the rows mean is decided elsewhere: the store knows neither providers
nor the rules by which bars are judged.
"""
