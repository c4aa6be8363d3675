"""What usage costs: rate cards compiled from published prices and the deployment file's own.

Rules: amounts are whole nano-dollars, rates exact rationals, rounded half up once per attempt. Compiling is slow and
happens once, beside the supervisor; workers read the compiled cards and never import the price database. What has no
known price is unpriced, never 0.
"""

from proxy.pricing.card import RateCard
from proxy.pricing.cards import RateCards
from proxy.pricing.known import is_regional
from proxy.pricing.names import provider_of

__all__ = ["RateCard", "RateCards", "is_regional", "provider_of"]
