"""What workers share: budgets' holds, rate tokens, small blobs, claims on duties, and a feed of changes."""
