"""Google's Gemini API: `generateContent`, `streamGenerateContent`, `countTokens` and the list of models."""
