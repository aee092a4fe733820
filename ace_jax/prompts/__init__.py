"""From cells to tokens: prompt texts, option labels, prefix trees and batches of them."""
