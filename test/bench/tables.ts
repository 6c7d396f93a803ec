// Tables in markdown.

/** The lines of a table; the first column is words, the others are numbers. */
export function table(headings: string[], rows: string[][]): string[] {
  const line = (cells: string[]) => `| ${cells.join(" | ")} |`;
  return [
    line(headings),
    line(headings.map((_, column) => (column === 0 ? "---" : "--:"))),
    ...rows.map(line),
  ];
}

/** 1234567 as 1,234,567. */
export function count(value: number): string {
  return value.toLocaleString("en-US");
}

/** A number with that many digits behind the point; nothing for what could not be measured. */
export function fixed(value: number | undefined, digits: number): string {
  return value === undefined || Number.isNaN(value) ? "" : value.toFixed(digits);
}
