"""Tools of a chat: what a line offers, how models call them."""
