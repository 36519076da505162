"""The gateway: the engine behind the OpenAI API, for people who have users."""
