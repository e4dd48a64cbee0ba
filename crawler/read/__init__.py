"""The extraction child: from the bytes of a page to its text and links. It may die of any page."""
