// The charges of a sample bill by kind, as FOCUS columns: what their costs and prices are, not when or whose.
import type { SERVICES, Service } from "./catalog.ts";
import type { Charge } from "./csv.ts";
import { hashOf, type Random } from "./random.ts";

/** What a commitment costs, relative to the contracted price of what it covers. */
export const COMMITMENT_RATE = 0.72;

/** A usage charge of about this cost. Every cost follows from the quantity and the unit prices. */
export function usageCharge(service: Service, cost: number): Charge {
  const unitPrice = service.listPrice * (1 - service.discount);
  const quantity = Number((cost / unitPrice).toFixed(6));
  return {
    BilledCost: quantity * unitPrice,
    EffectiveCost: quantity * unitPrice,
    ContractedCost: quantity * unitPrice,
    ContractedUnitPrice: unitPrice,
    ListCost: quantity * service.listPrice,
    ListUnitPrice: service.listPrice,
    PricingQuantity: quantity,
    PricingUnit: service.unit,
    ConsumedQuantity: quantity,
    ConsumedUnit: service.unit,
    PricingCategory: "Standard",
    ChargeCategory: "Usage",
    ChargeDescription: service.meter,
    ChargeFrequency: service.provider === "microsoft" ? "Usage-based" : "Usage-Based",
    SkuId: skuOf(service.meter),
    SkuPriceId: `${skuOf(service.meter)}.${skuOf(service.name)}`,
  };
}

/** What is wrong in real exports: contracted costs of 0, effective costs of 0, a price as the zone, priced by the block. */
export function withQuirks(service: keyof typeof SERVICES, charge: Charge, random: Random): Charge {
  switch (service) {
    case "lambda":
    case "elb":
      return { ...charge, ContractedCost: 0, ContractedUnitPrice: 0 };
    case "s3":
      return random.uniform() < 0.02 ? { ...charge, EffectiveCost: 0, ContractedCost: 0 } : charge;
    case "blob": {
      const blocks =
        random.uniform() < 0.1 ? Number(charge.PricingQuantity) / 100 : Number(charge.PricingQuantity);
      return { ...charge, AvailabilityZone: String(charge.ListUnitPrice), PricingQuantity: blocks };
    }
    default:
      return charge;
  }
}

/** A charge without a quantity: one unit at this price. */
export function flatCharge(cost: number, unit: string): Charge {
  return {
    BilledCost: cost,
    EffectiveCost: cost,
    ContractedCost: cost,
    ContractedUnitPrice: cost,
    ListCost: cost,
    ListUnitPrice: cost,
    PricingQuantity: 1,
    PricingUnit: unit,
    PricingCategory: "Standard",
  };
}

/** A charge of the account: a purchase, tax, or credit. */
export function monthlyCharge(
  category: string,
  frequency: string,
  description: string,
  cost: number,
): Charge {
  return {
    ...flatCharge(cost, "Months"),
    ChargeCategory: category,
    ChargeFrequency: frequency,
    ChargeDescription: description,
    ServiceCategory: "Other",
    ServiceName: "Billing",
    SkuId: skuOf(description),
    SkuPriceId: `${skuOf(description)}.1`,
  };
}

/** The month's fee of a commitment: billed here, effective in the usage that it covers. */
export function commitmentFee(service: Service, subAccount: string, cost: number): Charge {
  return {
    ...monthlyCharge("Purchase", "Recurring", "Commitment, monthly fee", cost),
    ...commitment(service, subAccount),
    ServiceCategory: service.category,
    ServiceName: service.name,
    EffectiveCost: 0,
  };
}

/** The columns that name a commitment; without a status for its purchase. */
export function commitment(service: Service, subAccount: string, status?: "Used" | "Unused"): Charge {
  const id = skuOf(subAccount).toLowerCase();
  const isAws = service.provider === "aws";
  return {
    CommitmentDiscountId: isAws
      ? `arn:aws:savingsplans::${subAccount}:savingsplan/${id}`
      : `/providers/Microsoft.Capacity/reservationOrders/${id}`,
    CommitmentDiscountName: isAws ? "Compute Savings Plan, 1 year" : "Reserved VM Instance, 1 year",
    CommitmentDiscountCategory: isAws ? "Spend" : "Usage",
    CommitmentDiscountType: isAws ? "Savings Plan" : "Reservation",
    PricingCategory: "Committed",
    ...(status === undefined ? {} : { CommitmentDiscountStatus: status }),
  };
}

function skuOf(text: string): string {
  return (hashOf(text).toString(36) + hashOf(`${text}!`).toString(36)).toUpperCase().padStart(14, "0");
}
