"""The writing path: finds files, hears them, and fills a memory."""
