"""What a text finally answers (`extraction`), what an answer is compared by (`keys`), and which texts answer the same
(`grouping`)."""
