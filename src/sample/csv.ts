// One line of a sample bill in FOCUS 1.0 CSV, with the header of a real export: the 43 columns, and an Id.
import type { Provider } from "./catalog.ts";

const COLUMNS = [
  ...["AvailabilityZone", "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency"],
  ...["BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription"],
  ...["ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart", "CommitmentDiscountCategory"],
  ...["CommitmentDiscountId", "CommitmentDiscountName", "CommitmentDiscountStatus", "CommitmentDiscountType"],
  ...["ConsumedQuantity", "ConsumedUnit", "ContractedCost", "ContractedUnitPrice", "EffectiveCost"],
  ...["InvoiceIssuerName", "ListCost", "ListUnitPrice", "PricingCategory", "PricingQuantity", "PricingUnit"],
  ...[
    "ProviderName",
    "PublisherName",
    "RegionId",
    "RegionName",
    "ResourceId",
    "ResourceName",
    "ResourceType",
  ],
  ...[
    "ServiceCategory",
    "Id",
    "ServiceName",
    "SkuId",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
    "Tags",
  ],
] as const;

/** A charge by its FOCUS columns; numbers are written plain, text in quotes, what is absent as the provider does. */
export type Charge = Partial<Record<(typeof COLUMNS)[number], string | number>>;

/** The header line. */
export const HEADER = COLUMNS.map(quoted).join(",");

/** Writes a charge as a line. Costs have ten decimals, as real exports have. */
export function lineOf(charge: Charge, provider: Provider): string {
  return COLUMNS.map((column) => {
    const value = charge[column];
    if (value === undefined) return provider.nothing;
    if (typeof value === "number") return decimal(value);
    return quoted(/Period(Start|End)$/.test(column) ? provider.time(value) : value);
  }).join(",");
}

/** Tiny prices in E-notation, as FOCUS allows; the rest with up to ten decimals. */
function decimal(value: number): string {
  if (Number.isInteger(value)) return String(value);
  return Math.abs(value) < 0.0001 ? value.toExponential(6).replace("e", "E") : value.toFixed(10);
}

function quoted(text: string): string {
  return `"${text.replaceAll('"', '""')}"`;
}
