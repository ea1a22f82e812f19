// Formulas come as text, \(...\) within a line and \[...\] apart, and are typeset where they stand.
for (const formula of document.querySelectorAll(".arithmatex")) {
  const text = formula.textContent.trim();
  katex.render(text.slice(2, -2), formula, {
    displayMode: text.startsWith("\\["),
    throwOnError: false,
  });
}
