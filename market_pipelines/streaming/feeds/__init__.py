"""Where a stream comes from. A feed only listens, and says when it cannot: what it hears goes to the journal unread."""
