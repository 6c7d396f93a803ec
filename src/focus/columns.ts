// Which FOCUS columns we store, and in which order a row carries them to `app.cost_import_add`.

/** One element of the composite type `app.cost_line_cells`: its name and its Postgres type. */
export type Cell = { name: string; type: string };

/**
 * `filled`: mandatory in FOCUS 1.0, and a row without a value is refused.
 * `present`: mandatory in FOCUS 1.0 as a column; its cells may be null, and SQL flags what is missing.
 * `optional`: conditional or recommended in FOCUS 1.0, or younger than it.
 */
export type Presence = "filled" | "present" | "optional";

/** A column by its FOCUS name, spelled as the specification does, and the version that brought it. */
export type FocusColumn = {
  focus: string;
  name: string;
  type: "text" | "numeric" | "timestamptz" | "jsonb";
  presence: Presence;
  since: FocusVersion;
};

/** A version of FOCUS whose columns we know. A younger file is taken too: columns we do not know are kept as extra. */
export type FocusVersion = "1.0" | "1.1" | "1.2";

/**
 * The columns of FOCUS 1.2, in the order of `app.cost_line_cells`. Names and feature levels: the FOCUS
 * specification 1.0 (https://focus.finops.org/focus-specification/v1-0/), columns since then: 1.1 and 1.2.
 */
export const FOCUS_COLUMNS: readonly FocusColumn[] = [
  column("BillingPeriodStart", "timestamptz", "filled"),
  column("BillingPeriodEnd", "timestamptz", "filled"),
  column("ChargePeriodStart", "timestamptz", "filled"),
  column("ChargePeriodEnd", "timestamptz", "filled"),

  column("ProviderName", "text", "present"),
  column("PublisherName", "text", "present"),
  column("InvoiceIssuerName", "text", "present"),
  column("InvoiceId", "text", "optional", "1.2"),

  column("BillingAccountId", "text", "present"),
  column("BillingAccountName", "text", "present"),
  column("BillingAccountType", "text", "optional", "1.2"),
  column("SubAccountId", "text", "optional"),
  column("SubAccountName", "text", "optional"),
  column("SubAccountType", "text", "optional", "1.2"),

  column("ChargeCategory", "text", "filled"),
  column("ChargeClass", "text", "present"),
  column("ChargeFrequency", "text", "optional"),
  column("ChargeDescription", "text", "present"),

  column("BilledCost", "numeric", "filled"),
  column("EffectiveCost", "numeric", "filled"),
  column("ListCost", "numeric", "present"),
  column("ContractedCost", "numeric", "present"),
  column("ListUnitPrice", "numeric", "optional"),
  column("ContractedUnitPrice", "numeric", "optional"),
  column("BillingCurrency", "text", "filled"),
  column("PricingCurrency", "text", "optional", "1.2"),
  column("PricingCurrencyEffectiveCost", "numeric", "optional", "1.2"),
  column("PricingCurrencyListUnitPrice", "numeric", "optional", "1.2"),
  column("PricingCurrencyContractedUnitPrice", "numeric", "optional", "1.2"),

  column("PricingCategory", "text", "optional"),
  column("PricingQuantity", "numeric", "present"),
  column("PricingUnit", "text", "present"),
  column("ConsumedQuantity", "numeric", "optional"),
  column("ConsumedUnit", "text", "optional"),

  column("ServiceCategory", "text", "present"),
  column("ServiceSubcategory", "text", "optional", "1.1"),
  column("ServiceName", "text", "present"),
  column("ResourceId", "text", "optional"),
  column("ResourceName", "text", "optional"),
  column("ResourceType", "text", "optional"),
  column("RegionId", "text", "optional"),
  column("RegionName", "text", "optional"),
  column("AvailabilityZone", "text", "optional"),
  column("SkuId", "text", "optional"),
  column("SkuPriceId", "text", "optional"),
  column("SkuMeter", "text", "optional", "1.1"),
  column("SkuPriceDetails", "jsonb", "optional", "1.1"),
  column("Tags", "jsonb", "optional"),

  column("CommitmentDiscountId", "text", "optional"),
  column("CommitmentDiscountName", "text", "optional"),
  column("CommitmentDiscountCategory", "text", "optional"),
  column("CommitmentDiscountType", "text", "optional"),
  column("CommitmentDiscountStatus", "text", "optional"),
  column("CommitmentDiscountQuantity", "numeric", "optional", "1.1"),
  column("CommitmentDiscountUnit", "text", "optional", "1.1"),
  column("CapacityReservationId", "text", "optional", "1.1"),
  column("CapacityReservationStatus", "text", "optional", "1.1"),
];

/** Every element of `app.cost_line_cells`, in order: the line, the FOCUS columns, what else the file had, our flags. */
export const LINE_CELLS: readonly Cell[] = [
  { name: "line_no", type: "int4" },
  ...FOCUS_COLUMNS.map(({ name, type }) => ({ name, type })),
  { name: "extra", type: "jsonb" },
  { name: "reader_flags", type: "text[]" },
];

/** The mandatory columns of FOCUS 1.0, in the order in which the specification lists them (by name). */
export const REQUIRED_COLUMNS: readonly string[] = FOCUS_COLUMNS.filter(
  (each) => each.presence !== "optional",
)
  .map((each) => each.focus)
  .sort();

function column(
  focus: string,
  type: FocusColumn["type"],
  presence: Presence,
  since: FocusVersion = "1.0",
): FocusColumn {
  const name = focus.replace(/(?<!^)[A-Z]/g, "_$&").toLowerCase();
  return { focus, name, type, presence, since };
}
