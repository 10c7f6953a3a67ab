"""Name screening: lists, matching, alerts, reviews and bulk, without the page."""
