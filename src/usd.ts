// Amounts as people read them.

const NANO = 1_000_000_000n;

/** Nano-USD as dollars, exactly, without trailing zeros, as SQL's `app_private.usd` writes them: 1500000000 is "1.5". */
export function usdOf(nanousd: bigint): string {
  const amount = nanousd < 0n ? -nanousd : nanousd;
  const fraction = String(amount % NANO)
    .padStart(9, "0")
    .replace(/0+$/, "");
  return `${nanousd < 0n ? "-" : ""}${amount / NANO}${fraction && `.${fraction}`}`;
}
