import { expect, test } from "vitest";
import { usdOf } from "../src/usd.ts";
import { testDatabase } from "./support/database.ts";

const database = testDatabase();

test("dollars are exact, and written as SQL writes them", async () => {
  const amounts = [0n, 1n, 10n, 999_999_999n, 1_000_000_000n, 1_500_000_000n, 9_007_199_254_740_993n, -20n];
  const { rows } = await database.superuser.query<{ usd: string }>(
    "select app_private.usd(each)::text as usd from unnest($1::bigint[]) with ordinality as a (each, n) order by n",
    [amounts.map(String)],
  );
  expect(amounts.map(usdOf)).toEqual(rows.map((row) => row.usd));
  expect(usdOf(9_223_372_036_854_775_807n)).toBe("9223372036.854775807");
});
