"""Online: answers, over HTTP, which products fit a user best and which worst."""
